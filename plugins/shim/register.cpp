//! libsparsesam_plugins_register.so: for hosts that only dlopen a library (Polygraphy, Triton Inference Server, ONNX
//! Runtime, LD_PRELOAD). Loading it registers the plugins in the registry of the TensorRT that the process has loaded.
#include <NvInferRuntime.h>
#include <cstdio>
#include <dlfcn.h>
#include <string>

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count);
extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

namespace sparsesam_register {

void say(std::string const& message) { std::fprintf(stderr, "sparsesam plugins: %s.\n", message.c_str()); }

//! A function of the TensorRT that is there already: no second one is loaded, and none of another major is used,
//! since the registry's interface differs between them.
template <class Function>
Function find(char const* name)
{
    std::string const major = std::to_string(NV_TENSORRT_MAJOR);
    for (auto const& library : {"libnvinfer.so." + major, "libnvinfer_lean.so." + major, "libnvinfer_dispatch.so." + major}) {
        if (void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_NOLOAD)) {
            return reinterpret_cast<Function>(dlsym(handle, name));
        }
    }
    return nullptr;
}

class LoggerFinder final : public nvinfer1::ILoggerFinder {
public:
    nvinfer1::ILogger* findLogger() noexcept override
    {
        static auto const logger = find<nvinfer1::ILogger* (*)() noexcept>("getLogger");
        return logger ? logger() : nullptr;
    }
};

struct Registration {
    Registration()
    {
        auto const registryOf = find<nvinfer1::IPluginRegistry* (*)() noexcept>("getPluginRegistry");
        auto* const registry = registryOf ? registryOf() : nullptr;
        if (!registry) {
            say("TensorRT " + std::to_string(NV_TENSORRT_MAJOR) + " is not loaded in this process, nothing was registered; "
                "load it first, or build the plugins with the headers of the TensorRT that is used");
            return;
        }
        static LoggerFinder finder;
        setLoggerFinder(&finder);
        std::int32_t count = 0;
        auto* const* const creators = getCreators(count);
        for (std::int32_t i = 0; i < count; ++i) {
            auto const& creator = static_cast<nvinfer1::IPluginCreatorV3One&>(*creators[i]);
            bool const known = registry->getCreator(creator.getPluginName(), creator.getPluginVersion(), creator.getPluginNamespace());
            if (!known && !registry->registerCreator(*creators[i], creator.getPluginNamespace())) {
                say(std::string(creator.getPluginName()) + " was refused by TensorRT's registry");
            }
        }
    }
} registration;

} // namespace sparsesam_register
