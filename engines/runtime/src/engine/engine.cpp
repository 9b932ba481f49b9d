#include "engine/engine.hpp"

#include <algorithm>
#include <set>
#include <vector>

#include "core/failure.hpp"
#include "engine/device.hpp"
#include "engine/logger.hpp"

namespace sparsesam {
namespace {

#ifdef SPARSESAM_LEAN_RUNTIME
constexpr bool lean_runtime = true;
#else
constexpr bool lean_runtime = false;
#endif

std::string tensorrt_version() {
  return std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
         std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
}

// The interface's tables of functions differ between majors: a call through the wrong one crashes.
void require_same_major() {
  if (getInferLibMajorVersion() != NV_TENSORRT_MAJOR) {
    throw Failure(SPARSESAM_ENVIRONMENT, "libsparsesam_runtime was compiled for TensorRT " +
                                             std::to_string(NV_TENSORRT_MAJOR) + ", but TensorRT " +
                                             tensorrt_version() + " is loaded; compile it with that one's headers.");
  }
}

std::vector<std::int64_t> shape(const nvinfer1::Dims& dims) { return {dims.d, dims.d + std::max(dims.nbDims, 0)}; }

std::vector<TensorInfo> tensors(const nvinfer1::ICudaEngine& engine) {
  std::vector<TensorInfo> result;
  for (std::int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
    const char* name = engine.getIOTensorName(i);
    TensorInfo tensor;
    tensor.name = name;
    tensor.is_input = engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
    tensor.is_float32 = engine.getTensorDataType(name) == nvinfer1::DataType::kFLOAT;
    tensor.shape = shape(engine.getTensorShape(name));
    tensor.min_shape = tensor.shape;
    tensor.max_shape = tensor.shape;
    const bool is_dynamic = std::count(tensor.shape.begin(), tensor.shape.end(), -1) > 0;
    if (tensor.is_input && is_dynamic) {
      tensor.min_shape = shape(engine.getProfileShape(name, 0, nvinfer1::OptProfileSelector::kMIN));
      tensor.max_shape = shape(engine.getProfileShape(name, 0, nvinfer1::OptProfileSelector::kMAX));
    }
    result.push_back(std::move(tensor));
  }
  return result;
}

}  // namespace

LoadedEngine::LoadedEngine(const std::string& path, const sparsesam_options& options)
    : folder_(open_folder(path)), options_(options) {
  Machine machine;
  machine.lean = lean_runtime;
  machine.tensorrt_version = tensorrt_version();
  check_machine(folder_, machine);
  require_same_major();
  try {
    machine.compute_capability = compute_capability(options.device);
  } catch (const Failure&) {
    check_folder(folder_, machine);  // a folder that is of no use anywhere is the better news
    throw;
  }
  check_machine(folder_, machine);
  check_libraries(folder_);

  const DeviceGuard device(options.device);
  const LogScope log(options.log, options.log_user_data);
  runtime_.reset(nvinfer1::createInferRuntime(logger()));
  if (!runtime_) {
    throw Failure(SPARSESAM_ENVIRONMENT,
                  "TensorRT does not start (" + log.reason() + "); run nvidia-smi and update the driver.");
  }
  // Code for the CPU that the engine carries, its runtime or its plugins, is covered by the engine's hash.
  runtime_->setEngineHostCodeAllowed(manifest().version_compatible || manifest().embeds_plugins);
  load_plugins();
  encoder_ = deserialise(manifest().engine);
  encoder_layout_ = sparsesam::encoder_layout(tensors(*encoder_), encoder_path());
  if (manifest().decoder_engine) {
    decoder_ = deserialise(*manifest().decoder_engine);
    decoder_layout_ = sparsesam::decoder_layout(tensors(*decoder_), encoder_layout_, decoder_path());
  }
}

void LoadedEngine::load_plugins() {
  std::set<std::string> libraries;
  for (const PluginRequirement& plugin : manifest().plugins) {
    libraries.insert(plugin.library);
  }
  for (const std::string& library : libraries) {
    const LogScope log(options_.log, options_.log_user_data);
    const std::string path = (folder_.folder / library).string();
    // The runtime's own registry: the process-wide one takes a library once only.
    if (runtime_->getPluginRegistry().loadLibrary(path.c_str()) == nullptr) {
      throw Failure(SPARSESAM_ENVIRONMENT,
                    "plugin library " + path + " does not load (" + log.reason() + "); rebuild it on this machine.");
    }
  }
}

std::string LoadedEngine::decoder_path() const {
  const std::optional<FileRecord>& record = manifest().decoder_engine;
  return record ? (folder_.folder / record->name).string() : "";
}

std::unique_ptr<nvinfer1::ICudaEngine> LoadedEngine::deserialise(const FileRecord& record) {
  const LogScope log(options_.log, options_.log_user_data);
  const Content content = read_verified(folder_, record);
  std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime_->deserializeCudaEngine(content.data.get(), content.size));
  if (!engine) {
    throw Failure(SPARSESAM_CHECK_FAILED, (folder_.folder / record.name).string() + " does not load (" + log.reason() +
                                              "); rebuild it on this machine.");
  }
  return engine;
}

std::unique_ptr<nvinfer1::IExecutionContext> LoadedEngine::create_encoder_context() {
  return create_context(*encoder_, encoder_path());
}

std::unique_ptr<nvinfer1::IExecutionContext> LoadedEngine::create_decoder_context() {
  return decoder_ ? create_context(*decoder_, decoder_path()) : nullptr;
}

std::unique_ptr<nvinfer1::IExecutionContext> LoadedEngine::create_context(nvinfer1::ICudaEngine& engine,
                                                                          const std::string& path) {
  const std::scoped_lock lock(creating_);
  const LogScope log(options_.log, options_.log_user_data);
  std::unique_ptr<nvinfer1::IExecutionContext> context(engine.createExecutionContext());
  if (!context) {
    throw Failure(SPARSESAM_ENVIRONMENT, path + " cannot be given an execution context (" + log.reason() +
                                             "); free GPU memory or use fewer contexts.");
  }
  return context;
}

}  // namespace sparsesam
