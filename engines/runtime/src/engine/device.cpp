#include "engine/device.hpp"

#include "core/failure.hpp"

namespace sparsesam {
namespace {

cudaError_t allocate(std::unique_ptr<float, FreeDevice>& memory, std::size_t bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, bytes);
  memory.reset(static_cast<float*>(pointer));
  return status;
}

cudaError_t allocate(std::unique_ptr<float, FreePinned>& memory, std::size_t bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaHostAlloc(&pointer, bytes, cudaHostAllocDefault);
  memory.reset(static_cast<float*>(pointer));
  return status;
}

}  // namespace

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) {
    return;
  }
  cudaGetLastError();  // an error that does not stick must not be found by the caller's next call
  const char* remedy = "run nvidia-smi and look at the kernel log";
  if (status == cudaErrorMemoryAllocation) {
    remedy = "free GPU memory or give a smaller batch";
  } else if (status == cudaErrorInsufficientDriver || status == cudaErrorNoDevice) {
    remedy = "install NVIDIA's driver on a machine with a GPU";
  }
  throw Failure(SPARSESAM_ENVIRONMENT,
                std::string("CUDA cannot ") + what + " (" + cudaGetErrorString(status) + "); " + remedy + ".");
}

std::string compute_capability(std::int32_t device) {
  int count = 0;
  check_cuda(cudaGetDeviceCount(&count), "find a GPU");
  if (device < 0 || device >= count) {
    throw Failure(SPARSESAM_ENVIRONMENT, "CUDA device " + std::to_string(device) +
                                             " does not exist, this machine has " + std::to_string(count) +
                                             "; give a smaller number.");
  }
  int major = 0;
  int minor = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "describe the GPU");
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "describe the GPU");
  return "SM" + std::to_string(major) + std::to_string(minor);
}

DeviceGuard::DeviceGuard(std::int32_t device) {
  check_cuda(cudaGetDevice(&previous_), "tell the current GPU");
  check_cuda(cudaSetDevice(device), "use the GPU");
}

DeviceGuard::~DeviceGuard() { cudaSetDevice(previous_); }

template <typename Free>
float* Buffer<Free>::reserve(std::size_t count) {
  if (count > count_) {
    memory_.reset();
    count_ = 0;
    check_cuda(allocate(memory_, count * sizeof(float)), "allocate memory");
    count_ = count;
  }
  return memory_.get();
}

template class Buffer<FreeDevice>;
template class Buffer<FreePinned>;

}  // namespace sparsesam
