//! libsparsesam_plugins_register.so: for hosts that only dlopen a library (Polygraphy, Triton Inference Server, ONNX
//! Runtime, LD_PRELOAD). Loading it registers the plugins in the registry of the TensorRT that the process has loaded.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>
#include <string>
#include <vector>

extern "C" nvinfer1::IPluginCreatorInterface* const* sparsesamGetCreators(std::int32_t& count);
extern "C" void sparsesamSetLoggerFinder(nvinfer1::ILoggerFinder* finder);

namespace sparsesam_register {

void say(std::string const& message) { std::fprintf(stderr, "sparsesam plugins: %s.\n", message.c_str()); }

//! What a TensorRT library exports.
struct TensorRT {
  nvinfer1::IPluginRegistry* registry;
  nvinfer1::ILogger* logger;
};

template <class Result>
Result* call(void* library, char const* name) {
  auto const function = reinterpret_cast<Result* (*)() noexcept>(dlsym(library, name));
  return function ? function() : nullptr;
}

//! Every TensorRT that is there already: no other is loaded, and none of another major is used, since the registry's
//! interface differs between them.
std::vector<TensorRT> loaded() {
  std::vector<TensorRT> found;
  for (auto const* name : {"libnvinfer.so.", "libnvinfer_lean.so.", "libnvinfer_dispatch.so."}) {
    std::string const library = name + std::to_string(NV_TENSORRT_MAJOR);
    if (void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_NOLOAD)) {
      found.push_back(
          {call<nvinfer1::IPluginRegistry>(handle, "getPluginRegistry"), call<nvinfer1::ILogger>(handle, "getLogger")});
    }
  }
  return found;
}

class LoggerFinder final : public nvinfer1::ILoggerFinder {
 public:
  explicit LoggerFinder(nvinfer1::ILogger* logger) : mLogger(logger) {}
  nvinfer1::ILogger* findLogger() noexcept override { return mLogger; }

 private:
  nvinfer1::ILogger* mLogger;
};

void registerIn(nvinfer1::IPluginRegistry& registry) {
  std::int32_t count = 0;
  auto* const* const creators = sparsesamGetCreators(count);
  for (std::int32_t i = 0; i < count; ++i) {
    auto const& creator = static_cast<nvinfer1::IPluginCreatorV3One&>(*creators[i]);
    bool const known =
        registry.getCreator(creator.getPluginName(), creator.getPluginVersion(), creator.getPluginNamespace());
    if (!known && !registry.registerCreator(*creators[i], creator.getPluginNamespace())) {
      say(std::string(creator.getPluginName()) + " was refused by TensorRT's registry");
    }
  }
}

struct Registration {
  Registration() {
    auto const all = loaded();
    if (all.empty()) {
      say("TensorRT " + std::to_string(NV_TENSORRT_MAJOR) +
          " is not loaded in this process, nothing was registered; "
          "load it first, or build the plugins with the headers of the TensorRT that is used");
      return;
    }
    static LoggerFinder finder(all.front().logger);
    sparsesamSetLoggerFinder(&finder);
    for (auto const& tensorrt : all) {
      registerIn(*tensorrt.registry);
    }
  }
} registration;

}  // namespace sparsesam_register
