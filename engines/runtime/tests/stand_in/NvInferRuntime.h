// A stand-in for TensorRT, so that the code which binds tensors and runs engines is tested without a GPU, under
// sanitisers. It has what src/engine/ uses of TensorRT 10.13 and nothing else; a test says what engines compute.
//
// An "engine file" is text, a line for each tensor: in|out NAME SHAPE [SMALLEST LARGEST], shapes as 1,3,1024,1024.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#define NV_TENSORRT_MAJOR 10

std::int32_t getInferLibMajorVersion() noexcept;
std::int32_t getInferLibMinorVersion() noexcept;
std::int32_t getInferLibPatchVersion() noexcept;
std::int32_t getInferLibBuildVersion() noexcept;

namespace nvinfer1 {

struct Dims {
  static constexpr std::int32_t MAX_DIMS = 8;
  std::int32_t nbDims;
  std::int64_t d[MAX_DIMS];
};

enum class TensorIOMode { kNONE, kINPUT, kOUTPUT };
enum class DataType { kFLOAT, kHALF };
enum class OptProfileSelector { kMIN, kOPT, kMAX };

class ILogger {
 public:
  enum class Severity { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};

struct Tensor {
  std::string name;
  bool is_input = false;
  Dims shape{}, smallest{}, largest{};
};

class IExecutionContext;

class ICudaEngine {
 public:
  std::vector<Tensor> tensors;

  ~ICudaEngine();  // says so in the log, as TensorRT does

  [[nodiscard]] std::int32_t getNbIOTensors() const noexcept { return static_cast<std::int32_t>(tensors.size()); }
  [[nodiscard]] const char* getIOTensorName(std::int32_t index) const noexcept;
  TensorIOMode getTensorIOMode(const char* name) const noexcept;
  DataType getTensorDataType(const char* name) const noexcept;
  Dims getTensorShape(const char* name) const noexcept;
  Dims getProfileShape(const char* name, std::int32_t profile, OptProfileSelector select) const noexcept;
  IExecutionContext* createExecutionContext() noexcept;

  [[nodiscard]] const Tensor* find(const char* name) const;
};

class IExecutionContext {
 public:
  explicit IExecutionContext(const ICudaEngine& engine) : engine_(engine) {}
  bool setInputShape(const char* name, const Dims& dims) noexcept;
  bool setInputTensorAddress(const char* name, const void* data) noexcept;
  bool setTensorAddress(const char* name, void* data) noexcept;
  bool enqueueV3(cudaStream_t stream) noexcept;

 private:
  const ICudaEngine& engine_;
  std::map<std::string, Dims> shapes_;
  std::map<std::string, void*> addresses_;
};

class IPluginRegistry {
 public:
  // Null for a file that holds the word "broken".
  void* loadLibrary(const char* path) noexcept;
};

class IRuntime {
 public:
  ICudaEngine* deserializeCudaEngine(const void* data, std::size_t size) noexcept;
  IPluginRegistry& getPluginRegistry() noexcept { return registry_; }
  void setEngineHostCodeAllowed(bool allowed) noexcept { host_code_allowed_ = allowed; }

 private:
  bool host_code_allowed_ = false;
  IPluginRegistry registry_;
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1
