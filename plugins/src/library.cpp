//! What TensorRT looks for in a plugin library. The library does not register itself: one that does cannot be loaded
//! with IPluginRegistry::loadLibrary any more. Hosts that only dlopen take libsparsesam_plugins_register.so.
#include "log.hpp"
#include "plugin.hpp"

extern "C" {

__attribute__((visibility("default"))) void sparsesamSetLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  sparsesam::setLogger(finder);
}

//! The release whose interfaces this library was built with; the loader compares it with the one that is installed.
__attribute__((visibility("default"))) std::int32_t sparsesamTensorRTMajor() { return NV_TENSORRT_MAJOR; }

__attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* sparsesamGetCreators(
    std::int32_t& count) {
  static auto const creators = [] {
    auto all = sparsesam::attentionCreators();
    for (auto const of : {sparsesam::routedMlpPackCreators, sparsesam::routedMlpUnpackCreators}) {
      for (auto& creator : of()) {
        all.push_back(std::move(creator));
      }
    }
    return all;
  }();
  static auto const addresses = [] {
    std::vector<nvinfer1::IPluginCreatorInterface*> pointers;
    for (auto const& creator : creators) {
      pointers.push_back(creator.get());
    }
    return pointers;
  }();
  count = static_cast<std::int32_t>(addresses.size());
  return addresses.data();
}

// The names that TensorRT asks for. Every plugin library has them, so whoever links against this one takes the others.

__attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  sparsesamSetLoggerFinder(finder);
}

__attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  return sparsesamGetCreators(count);
}

}  // extern "C"
