//! A libcuda.so.1 for machines without a GPU: its memory is a file, and a launch is a line in a log, so that the tests
//! can run what was launched with Triton's interpreter. Folder: SPARSESAM_FAKE_DRIVER; GPU: SPARSESAM_FAKE_CAPABILITY.
#include <cuda.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#define FAKE extern "C" __attribute__((visibility("default"))) CUresult

namespace {

constexpr std::uintptr_t kBase = 0x200000000000;  // free under AddressSanitizer too
constexpr std::size_t kCapacity = std::size_t{1} << 30;
constexpr std::size_t kAlignment = 256;  // as cudaMalloc

std::string folder() { return std::getenv("SPARSESAM_FAKE_DRIVER"); }

std::ofstream& launches() {
  static std::ofstream file(folder() + "/launches", std::ios::app);
  return file;
}

std::size_t used = 0;

void map() {
  static bool const mapped = [] {
    int const file = open((folder() + "/memory").c_str(), O_RDWR | O_CREAT, 0600);
    bool const sized = file >= 0 && ftruncate(file, kCapacity) == 0;
    auto* const place = reinterpret_cast<void*>(kBase);
    return sized && mmap(place, kCapacity, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == place;
  }();
  if (!mapped) {
    std::abort();
  }
}

//! Bytes of a cubin, which ends with one of its tables of headers, or of PTX, which is text.
std::streamsize sizeOf(char const* code) {
  if (std::memcmp(code,
                  "\x7f"
                  "ELF",
                  4) != 0) {
    return static_cast<std::streamsize>(std::strlen(code));
  }
  Elf64_Ehdr header;
  std::memcpy(&header, code, sizeof(header));
  std::size_t const sections = header.e_shoff + std::size_t{header.e_shentsize} * header.e_shnum;
  std::size_t const segments = header.e_phoff + std::size_t{header.e_phentsize} * header.e_phnum;
  return static_cast<std::streamsize>(std::max(sections, segments));
}

}  // namespace

FAKE cuInit(unsigned) { return map(), CUDA_SUCCESS; }
FAKE cuGetErrorString(CUresult, char const** text) { return *text = "of the fake driver", CUDA_SUCCESS; }
FAKE cuDeviceGet(CUdevice* device, int) { return *device = 0, CUDA_SUCCESS; }
FAKE cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { return *context = nullptr, CUDA_SUCCESS; }
FAKE cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
FAKE cuCtxSynchronize() { return CUDA_SUCCESS; }
FAKE cuCtxGetDevice(CUdevice* device) { return *device = 0, CUDA_SUCCESS; }
FAKE cuStreamCreate(CUstream* stream, unsigned) { return *stream = nullptr, CUDA_SUCCESS; }

FAKE cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  int const capability = std::atoi(std::getenv("SPARSESAM_FAKE_CAPABILITY"));
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? capability / 10 : capability % 10;
  return CUDA_SUCCESS;
}

FAKE cuMemAlloc_v2(CUdeviceptr* memory, std::size_t bytes) {
  *memory = kBase + used;
  used += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return used <= kCapacity ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

FAKE cuMemcpyHtoD_v2(CUdeviceptr to, void const* from, std::size_t bytes) {
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return CUDA_SUCCESS;
}

FAKE cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes) {
  std::memcpy(to, reinterpret_cast<void*>(from), bytes);
  return CUDA_SUCCESS;
}

FAKE cuMemsetD8_v2(CUdeviceptr to, unsigned char value, std::size_t bytes) {
  std::memset(reinterpret_cast<void*>(to), value, bytes);
  return CUDA_SUCCESS;
}

FAKE cuMemsetD32Async(CUdeviceptr to, unsigned value, std::size_t words, CUstream) {
  for (std::size_t i = 0; i < words; ++i) {
    reinterpret_cast<unsigned*>(to)[i] = value;
  }
  return CUDA_SUCCESS;
}

FAKE cuLibraryLoadData(CUlibrary* library, void const* code, CUjit_option*, void**, unsigned, CUlibraryOption*, void**,
                       unsigned) {
  // Which kernel it is, the tests find out by comparing.
  static int count = 0;
  auto const* const bytes = static_cast<char const*>(code);
  std::ofstream(folder() + "/library" + std::to_string(++count), std::ios::binary).write(bytes, sizeOf(bytes));
  *library = reinterpret_cast<CUlibrary>(static_cast<std::uintptr_t>(count));
  return CUDA_SUCCESS;
}

FAKE cuLibraryUnload(CUlibrary library) {
  launches() << "unload " << reinterpret_cast<std::uintptr_t>(library) << std::endl;
  return CUDA_SUCCESS;
}

FAKE cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, char const*) {
  *kernel = reinterpret_cast<CUkernel>(library);
  return CUDA_SUCCESS;
}

FAKE cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  *function = reinterpret_cast<CUfunction>(kernel);
  return CUDA_SUCCESS;
}

FAKE cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  launches() << "attribute " << reinterpret_cast<std::uintptr_t>(function) << " " << attribute << " " << value
             << std::endl;
  return CUDA_SUCCESS;
}

FAKE cuLaunchKernel(CUfunction function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,
                    unsigned blockY, unsigned blockZ, unsigned shared, CUstream, void** parameters, void** extra) {
  if (parameters || extra[0] != CU_LAUNCH_PARAM_BUFFER_POINTER || extra[2] != CU_LAUNCH_PARAM_BUFFER_SIZE) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  auto const* const bytes = static_cast<unsigned char const*>(extra[1]);
  std::size_t const size = *static_cast<std::size_t const*>(extra[3]);
  launches() << "launch " << reinterpret_cast<std::uintptr_t>(function) << " " << gridX << " " << gridY << " " << gridZ
             << " " << blockX << " " << blockY << " " << blockZ << " " << shared << " " << std::hex;
  for (std::size_t i = 0; i < size; ++i) {
    launches() << (bytes[i] < 16 ? "0" : "") << static_cast<int>(bytes[i]);
  }
  launches() << std::dec << std::endl;
  return CUDA_SUCCESS;
}
