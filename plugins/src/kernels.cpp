#include "kernels.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>

#include "log.hpp"

extern "C" unsigned char const sparsesam_kernels[];  // kernels.S

namespace sparsesam {
namespace {

constexpr Image kImages[] = {
#include "kernel_table.inc"
};
constexpr int kPtx = 0;
constexpr int kOldestCapability = 80;
constexpr int kWarpSize = 32;
constexpr char const* kElementNames[] = {"fp16", "bf16", "fp32"};

std::string describe(std::string_view kernel, int width, Element element) {
  return "kernel '" + std::string(kernel) + "' of width " + std::to_string(width) + " in " +
         kElementNames[static_cast<int>(element)];
}

bool is(Image const& image, std::string_view kernel, int width, Element element) {
  return image.kernel == kernel && image.width == width && image.element == element;
}

//! The image for a device of this capability: its own machine code, or else PTX.
Image const* find(std::string_view kernel, int width, Element element, int capability) {
  Image const* portable = nullptr;
  for (auto const& image : kImages) {
    if (is(image, kernel, width, element)) {
      if (image.capability == capability) {
        return &image;
      }
      if (image.capability == kPtx) {
        portable = &image;
      }
    }
  }
  return portable;
}

//! The code of an image, loaded once per process however many layers and contexts use it.
std::shared_ptr<void> loadLibrary(Driver const& driver, Image const& image, std::string const& gpu, std::string& why) {
  static std::mutex mutex;
  static std::map<Image const*, std::weak_ptr<void>> loaded;
  std::lock_guard<std::mutex> const lock(mutex);
  auto& known = loaded[&image];
  if (auto library = known.lock()) {
    return library;
  }
  if (image.capability == kPtx) {
    logWarning("no machine code for " + gpu + ": the driver compiles " +
               describe(image.kernel, image.width, image.element) +
               " from PTX, which takes seconds and is slower than code made for this GPU");
  }
  CUlibrary library{};
  CUresult const result =
      driver.libraryLoadData(&library, sparsesam_kernels + image.offset, nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (result != CUDA_SUCCESS) {
    why = describe(image.kernel, image.width, image.element) + " does not load: " + driver.describe(result);
    return nullptr;
  }
  std::shared_ptr<void> shared(library, [&driver](void* code) { driver.libraryUnload(static_cast<CUlibrary>(code)); });
  known = shared;
  return shared;
}

}  // namespace

std::optional<Element> elementOf(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kHALF:
      return Element::fp16;
    case nvinfer1::DataType::kBF16:
      return Element::bf16;
    case nvinfer1::DataType::kFLOAT:
      return Element::fp32;
    default:
      return std::nullopt;
  }
}

bool hasKernels(Element element) {
  return std::any_of(std::begin(kImages), std::end(kImages),
                     [=](Image const& image) { return image.element == element; });
}

std::string missing(std::string_view kernel, int width, Element element) {
  bool const found = std::any_of(std::begin(kImages), std::end(kImages),
                                 [=](Image const& image) { return is(image, kernel, width, element); });
  return found ? std::string()
               : "this library has no " + describe(kernel, width, element) +
                     "; build it with that model and element type (SPARSESAM_MODELS, SPARSESAM_ELEMENTS)";
}

std::optional<Kernel> Kernel::load(std::string_view kernel, int width, Element element, char const* function,
                                   std::string& why) {
  Kernel loaded;
  loaded.mDriver = Driver::get(why);
  if (!loaded.mDriver) {
    return std::nullopt;
  }
  auto const& driver = *loaded.mDriver;
  CUdevice device{};
  int major = 0, minor = 0;
  CUresult result = driver.ctxGetDevice(&device);
  if (result == CUDA_SUCCESS) {
    driver.deviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
    driver.deviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
  } else {
    why = "no CUDA context is current (" + driver.describe(result) + "); call cudaSetDevice in this thread first";
    return std::nullopt;
  }
  int const capability = 10 * major + minor;
  std::string const gpu = "compute capability " + std::to_string(major) + "." + std::to_string(minor);
  if (capability < kOldestCapability) {
    why = "the GPU has " + gpu + ", but the kernels need 8.0 or later; build without plugins (--no-plugins)";
    return std::nullopt;
  }
  loaded.mImage = find(kernel, width, element, capability);
  if (!loaded.mImage) {
    why = missing(kernel, width, element);
    return std::nullopt;
  }
  if (std::string_view(loaded.mImage->function) != function) {
    why = describe(kernel, width, element) + " is " + loaded.mImage->function + ", not " + function;
    return std::nullopt;
  }
  loaded.mLibrary = loadLibrary(driver, *loaded.mImage, gpu, why);
  if (!loaded.mLibrary) {
    return std::nullopt;
  }
  CUkernel code{};
  result = driver.libraryGetKernel(&code, static_cast<CUlibrary>(loaded.mLibrary.get()), function);
  if (result == CUDA_SUCCESS) {
    result = driver.kernelGetFunction(&loaded.mFunction, code);  // loads it here and now, not at the first launch
  }
  if (result == CUDA_SUCCESS && loaded.mImage->shared > 0) {
    result = driver.funcSetAttribute(loaded.mFunction, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                     loaded.mImage->shared);
  }
  if (result != CUDA_SUCCESS) {
    why = describe(kernel, width, element) + " cannot be used on this GPU: " + driver.describe(result);
    return std::nullopt;
  }
  return loaded;
}

bool Kernel::launch(cudaStream_t stream, std::int64_t gridX, std::int64_t gridY, void* arguments,
                    std::size_t size) const noexcept {
  if (gridX == 0 || gridY == 0) {
    return true;
  }
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, arguments, CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};
  auto const programs = [](std::int64_t count) { return static_cast<unsigned>(count); };
  unsigned const threads = static_cast<unsigned>(mImage->numWarps * kWarpSize);
  unsigned const shared = static_cast<unsigned>(mImage->shared);
  CUresult const result = mDriver->launchKernel(mFunction, programs(gridX), programs(gridY), 1, threads, 1, 1, shared,
                                                stream, nullptr, extra);
  if (result != CUDA_SUCCESS) {
    logError(describe(mImage->kernel, mImage->width, mImage->element) +
             " was not launched: " + mDriver->describe(result));
  }
  return result == CUDA_SUCCESS;
}

}  // namespace sparsesam
