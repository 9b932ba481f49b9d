#include "stand_in.h"

#include <NvInferRuntime.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

namespace {

std::atomic<stand_in_kernel> kernel{nullptr};
std::atomic<void*> kernel_data{nullptr};
std::atomic<std::int32_t> devices{1};
std::atomic<std::int64_t> largest_allocation{INT64_MAX};
std::atomic<std::int32_t> allocations{0};
std::atomic<nvinfer1::ILogger*> first_logger{nullptr};
thread_local int current_device = 0;

void complain(const char* message) {
  if (nvinfer1::ILogger* logger = first_logger) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, message);
  }
}

nvinfer1::Dims parse_shape(const std::string& text) {
  nvinfer1::Dims dims{};
  std::istringstream numbers(text);
  for (std::string number; std::getline(numbers, number, ',') && dims.nbDims < nvinfer1::Dims::MAX_DIMS;) {
    dims.d[dims.nbDims++] = std::strtoll(number.c_str(), nullptr, 10);
  }
  return dims;
}

cudaError_t allocate(void** memory, std::size_t bytes) {
  if (static_cast<std::int64_t>(bytes) > largest_allocation) {
    return cudaErrorMemoryAllocation;
  }
  *memory = std::malloc(bytes);
  std::memset(*memory, 0xff, bytes);  // NaN, to find what is read before it is written
  ++allocations;
  return cudaSuccess;
}

cudaError_t release(void* memory) {
  if (memory != nullptr) {
    --allocations;
  }
  std::free(memory);
  return cudaSuccess;
}

}  // namespace

void stand_in_set_kernel(stand_in_kernel new_kernel, void* user_data) {
  kernel = new_kernel;
  kernel_data = user_data;
}
void stand_in_set_devices(std::int32_t count) { devices = count; }
void stand_in_set_memory(std::int64_t bytes) { largest_allocation = bytes; }
std::int32_t stand_in_allocations(void) { return allocations; }

// --- CUDA ----------------------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = std::max(devices.load(), 0);
  return devices < 0 ? cudaErrorInsufficientDriver : devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 8 : 9;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaMalloc(void** memory, std::size_t bytes) { return allocate(memory, bytes); }
cudaError_t cudaFree(void* memory) { return release(memory); }
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned /*flags*/) { return allocate(memory, bytes); }
cudaError_t cudaFreeHost(void* memory) { return release(memory); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind /*kind*/, cudaStream_t) {
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    default:
      return "no error";
  }
}

// --- TensorRT ------------------------------------------------------------------------------------------------------

std::int32_t getInferLibMajorVersion() noexcept { return NV_TENSORRT_MAJOR; }
std::int32_t getInferLibMinorVersion() noexcept { return 13; }
std::int32_t getInferLibPatchVersion() noexcept { return 0; }
std::int32_t getInferLibBuildVersion() noexcept { return 35; }

namespace nvinfer1 {

IRuntime* createInferRuntime(ILogger& logger) noexcept {
  ILogger* none = nullptr;
  first_logger.compare_exchange_strong(none, &logger);  // as TensorRT: later loggers are ignored
  return new IRuntime;
}

void* IPluginRegistry::loadLibrary(const char* path) noexcept {
  std::ifstream file(path);
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  if (content.find("broken") != std::string::npos) {
    complain("invalid ELF header");
    return nullptr;
  }
  return this;
}

ICudaEngine* IRuntime::deserializeCudaEngine(const void* data, std::size_t size) noexcept {
  auto engine = std::make_unique<ICudaEngine>();
  std::istringstream lines(std::string(static_cast<const char*>(data), size));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string mode, name, shape, smallest, largest;
    words >> mode >> name >> shape >> smallest >> largest;
    if (mode == "host_code") {
      if (!host_code_allowed_) {
        complain("the engine carries host code, which was not allowed");
        return nullptr;
      }
      continue;
    }
    if (mode != "in" && mode != "out") {
      complain("Serialization assertion magicTag failed");
      complain("and what follows from it");
      return nullptr;
    }
    engine->tensors.push_back({name, mode == "in", parse_shape(shape), parse_shape(smallest.empty() ? shape : smallest),
                               parse_shape(largest.empty() ? shape : largest)});
  }
  return engine.release();
}

ICudaEngine::~ICudaEngine() {
  if (ILogger* logger = first_logger) {
    logger->log(ILogger::Severity::kVERBOSE, "an engine is destroyed");
  }
}

const Tensor* ICudaEngine::find(const char* name) const {
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [name](const Tensor& tensor) { return tensor.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

const char* ICudaEngine::getIOTensorName(std::int32_t index) const noexcept {
  return tensors[static_cast<std::size_t>(index)].name.c_str();
}
TensorIOMode ICudaEngine::getTensorIOMode(const char* name) const noexcept {
  return find(name)->is_input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
}
DataType ICudaEngine::getTensorDataType(const char*) const noexcept { return DataType::kFLOAT; }
Dims ICudaEngine::getTensorShape(const char* name) const noexcept { return find(name)->shape; }
Dims ICudaEngine::getProfileShape(const char* name, std::int32_t, OptProfileSelector select) const noexcept {
  return select == OptProfileSelector::kMIN ? find(name)->smallest : find(name)->largest;
}
IExecutionContext* ICudaEngine::createExecutionContext() noexcept { return new IExecutionContext(*this); }

bool IExecutionContext::setInputShape(const char* name, const Dims& dims) noexcept {
  const Tensor* tensor = engine_.find(name);
  if (tensor == nullptr || !tensor->is_input || tensor->shape.nbDims != dims.nbDims) {
    return false;
  }
  for (std::int32_t i = 0; i < dims.nbDims; ++i) {
    if (dims.d[i] < tensor->smallest.d[i] || dims.d[i] > tensor->largest.d[i]) {
      complain("the shape is outside the profile");
      return false;
    }
  }
  shapes_[name] = dims;
  return true;
}

bool IExecutionContext::setInputTensorAddress(const char* name, const void* data) noexcept {
  return engine_.find(name) != nullptr && engine_.find(name)->is_input &&
         setTensorAddress(name, const_cast<void*>(data));
}

bool IExecutionContext::setTensorAddress(const char* name, void* data) noexcept {
  if (engine_.find(name) == nullptr || data == nullptr) {
    return false;
  }
  addresses_[name] = data;
  return true;
}

bool IExecutionContext::enqueueV3(cudaStream_t) noexcept {
  std::vector<const char*> names;
  std::vector<float*> data;
  std::vector<std::int64_t> shapes;
  std::vector<std::int32_t> ranks;
  for (const Tensor& tensor : engine_.tensors) {
    const auto address = addresses_.find(tensor.name);
    const auto shape = shapes_.find(tensor.name);
    if (address == addresses_.end() || (tensor.is_input && shape == shapes_.end())) {
      complain("a tensor is not bound");
      return false;
    }
    const Dims& dims = tensor.is_input ? shape->second : tensor.shape;
    names.push_back(tensor.name.c_str());
    data.push_back(static_cast<float*>(address->second));
    shapes.insert(shapes.end(), dims.d, dims.d + Dims::MAX_DIMS);
    ranks.push_back(dims.nbDims);
  }
  addresses_.clear();  // so that a call which forgets a tensor is found out
  shapes_.clear();
  const stand_in_kernel compute = kernel;
  if (compute == nullptr || compute(kernel_data, static_cast<std::int32_t>(names.size()), names.data(), data.data(),
                                    shapes.data(), ranks.data()) != 0) {
    complain("a kernel failed");
    return false;
  }
  return true;
}

}  // namespace nvinfer1
