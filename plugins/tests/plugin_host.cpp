//! Drives plugins through TensorRT's plugin interface alone, the way TensorRT does: by a script on stdin, answering one
//! line per fact on stdout. With a runtime library as second argument the creators come from that TensorRT's registry.
//!
//!   creators                              name version namespace and fields of every creator
//!   node NAME | field KIND NAME VALUE     what to create: KIND is int32, float32, null (no data), pair (two int32)
//!   create build|runtime                  "created" with the fields that come back, or "null"
//!   input TYPE FILE|- DIM...              TYPE is half, bf16, float, int32, int8; - is no data, for describe alone
//!   describe MAX_BATCH                    formats, output types and shapes, configurePlugin, workspace
//!   run plain|graph|two PREFIX            enqueue; outputs to PREFIX0, PREFIX1, ...
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <iostream>
#include <iterator>
#include <sstream>
#include <vector>

#include "session.hpp"

namespace plugin_host {

using namespace nvinfer1;

struct Logger : ILogger {
  void log(Severity severity, char const* message) noexcept override {
    std::cout << "log " << static_cast<int>(severity) << " " << message << std::endl;
  }
} logger;

struct LoggerFinder : ILoggerFinder {
  ILogger* findLogger() noexcept override { return &logger; }
} loggerFinder;

template <class Function>
Function symbol(void* library, char const* name) {
  auto const function = reinterpret_cast<Function>(dlsym(library, name));
  if (!function) {
    stop(std::string("no symbol ") + name);
  }
  return function;
}

void* open(char const* path) {
  void* const library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  return library ? library : (stop(dlerror()), nullptr);
}

constexpr char kCreatorKind[] = "PLUGIN CREATOR_V3ONE";

IPluginCreatorV3One* v3(IPluginCreatorInterface* creator) {
  if (std::strcmp(creator->getInterfaceInfo().kind, kCreatorKind) != 0) {
    stop("a creator of another kind than IPluginCreatorV3One");
  }
  return static_cast<IPluginCreatorV3One*>(creator);
}

std::vector<IPluginCreatorV3One*> creatorsOf(char const* pluginLibrary, char const* runtimeLibrary) {
  std::vector<IPluginCreatorV3One*> creators;
  std::int32_t count = 0;
  if (!runtimeLibrary) {
    void* const library = open(pluginLibrary);
    symbol<void (*)(ILoggerFinder*)>(library, "setLoggerFinder")(&loggerFinder);
    auto* const* const all = symbol<IPluginCreatorInterface* const* (*)(std::int32_t&)>(library, "getCreators")(count);
    std::transform(all, all + count, std::back_inserter(creators), v3);
    return creators;
  }
  void* const runtime = dlopen(runtimeLibrary, RTLD_NOW | RTLD_LOCAL);  // as Python and serving backends load it
  if (!runtime) {
    stop(dlerror());
  }
  if (symbol<std::int32_t (*)()>(runtime, "getInferLibVersion")() / 10000 != NV_TENSORRT_MAJOR) {
    stop("the runtime is of another major release than the headers");  // the registry's interface differs
  }
  auto* const registry = symbol<IPluginRegistry* (*)()>(runtime, "getPluginRegistry")();
  bool const registersItself = std::string(pluginLibrary).find("_register") != std::string::npos;
  if (registersItself ? !dlopen(pluginLibrary, RTLD_NOW | RTLD_LOCAL) : !registry->loadLibrary(pluginLibrary)) {
    stop("the library was not loaded");
  }
  auto* const* const all = registry->getAllCreators(&count);
  for (std::int32_t i = 0; i < count; ++i) {
    if (std::strcmp(all[i]->getInterfaceInfo().kind, kCreatorKind) != 0) {
      continue;
    }
    std::string const name = v3(all[i])->getPluginName();
    if (name.rfind("StripeAttention", 0) == 0 || name.rfind("RoutedMlp", 0) == 0) {  // TensorRT has some of its own
      creators.push_back(v3(all[i]));
    }
  }
  return creators;
}

}  // namespace plugin_host

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: plugin_host LIBRARY [RUNTIME] < script\n";
    return 2;
  }
  plugin_host::Session session(plugin_host::creatorsOf(argv[1], argc > 2 ? argv[2] : nullptr));
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    session.command(words);
  }
  return 0;
}
