// CUDA as the runtime uses it: the device, memory, and errors with a remedy.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace sparsesam {

// Failure ENVIRONMENT when `status` is an error; `what` completes "CUDA cannot ...".
void check_cuda(cudaError_t status, const char* what);

// The compute capability of a device as manifests write it, "SM89". Failure ENVIRONMENT: no driver, no such device.
std::string compute_capability(std::int32_t device);

// Makes a device current on this thread, and the previous one again.
class DeviceGuard {
 public:
  explicit DeviceGuard(std::int32_t device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  DeviceGuard(DeviceGuard&&) = delete;
  DeviceGuard& operator=(DeviceGuard&&) = delete;

 private:
  int previous_ = 0;
};

struct FreeDevice {
  void operator()(float* memory) const noexcept { cudaFree(memory); }
};
struct FreePinned {
  void operator()(float* memory) const noexcept { cudaFreeHost(memory); }
};

// float32 memory that grows to the largest request.
template <typename Free>
class Buffer {
 public:
  // At least `count` values; what was there is lost when it has to grow.
  float* reserve(std::size_t count);
  [[nodiscard]] float* get() const { return memory_.get(); }

 private:
  std::unique_ptr<float, Free> memory_;
  std::size_t count_ = 0;
};

using DeviceBuffer = Buffer<FreeDevice>;
using PinnedBuffer = Buffer<FreePinned>;

}  // namespace sparsesam
