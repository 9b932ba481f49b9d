//! Our creators as an ONNX parser sees them, made to decline: TensorRT-RTX aborts when a plugin is really created.
//! Fields are printed as they arrive, with the real creator's answer. Its library: SPARSESAM_PLUGIN_LIBRARY.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <vector>

namespace parser_probe {

using namespace nvinfer1;

class Probe final : public IPluginCreatorV3One {
 public:
  explicit Probe(IPluginCreatorV3One& real) : mReal(real) {}

  IPluginV3* createPlugin(AsciiChar const* name, PluginFieldCollection const* fields,
                          TensorRTPhase phase) noexcept override {
    std::unique_ptr<IPluginV3> const plugin(mReal.createPlugin(name, fields, phase));
    std::cout << "PROBE " << getPluginName();
    for (std::int32_t i = 0; i < fields->nbFields; ++i) {
      auto const& field = fields->fields[i];
      bool const real = field.type == PluginFieldType::kFLOAT32;
      std::cout << " " << field.name
                << (real                                    ? ":float32="
                    : field.type == PluginFieldType::kINT32 ? ":int32="
                                                            : ":other=");
      real ? std::cout << *static_cast<float const*>(field.data)
           : std::cout << *static_cast<std::int32_t const*>(field.data);
    }
    std::cout << (plugin ? " accepted" : " refused") << std::endl;
    return nullptr;
  }

  PluginFieldCollection const* getFieldNames() noexcept override { return mReal.getFieldNames(); }
  AsciiChar const* getPluginName() const noexcept override { return mReal.getPluginName(); }
  AsciiChar const* getPluginVersion() const noexcept override { return mReal.getPluginVersion(); }
  AsciiChar const* getPluginNamespace() const noexcept override { return mReal.getPluginNamespace(); }

 private:
  IPluginCreatorV3One& mReal;
};

}  // namespace parser_probe

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder*) {}

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    std::int32_t& count) {
  using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(std::int32_t&);
  static std::vector<std::unique_ptr<parser_probe::Probe>> probes;
  static std::vector<nvinfer1::IPluginCreatorInterface*> addresses;
  void* const library = dlopen(std::getenv("SPARSESAM_PLUGIN_LIBRARY"), RTLD_NOW);
  auto const real = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"))(count);
  for (std::int32_t i = 0; i < count; ++i) {
    probes.push_back(std::make_unique<parser_probe::Probe>(static_cast<nvinfer1::IPluginCreatorV3One&>(*real[i])));
    addresses.push_back(probes.back().get());
  }
  return addresses.data();
}
