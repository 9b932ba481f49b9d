//! Memory, streams and graphs of the first GPU through the driver, which is looked up as the plugins look it up: so a
//! stand-in of the same name serves both (fake_driver.cpp).
#pragma once
#include <cuda.h>
#include <dlfcn.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

namespace plugin_host {

class Device {
 public:
  Device() {
    call<decltype(&::cuInit)>("cuInit", 0U);
    CUdevice device{};
    CUcontext context{};
    call<decltype(&::cuDeviceGet)>("cuDeviceGet", &device, 0);
    call<decltype(&::cuDevicePrimaryCtxRetain)>("cuDevicePrimaryCtxRetain", &context, device);
    call<decltype(&::cuCtxSetCurrent)>("cuCtxSetCurrent", context);
  }

  void* upload(std::vector<char> const& content) {
    void* const memory = allocate(content.size());
    call<CUresult (*)(CUdeviceptr, void const*, std::size_t)>("cuMemcpyHtoD_v2", address(memory), content.data(),
                                                              content.size());
    return memory;
  }

  //! Memory full of NaN: what nobody writes does not look like a result.
  void* poisoned(std::size_t bytes) {
    void* const memory = allocate(bytes);
    poison(memory, bytes);
    return memory;
  }

  void poison(void* memory, std::size_t bytes) {
    call<CUresult (*)(CUdeviceptr, unsigned char, std::size_t)>("cuMemsetD8_v2", address(memory), 0xFF, bytes);
    wait();
  }

  std::vector<char> download(void const* memory, std::size_t bytes) {
    std::vector<char> content(bytes);
    call<CUresult (*)(void*, CUdeviceptr, std::size_t)>("cuMemcpyDtoH_v2", content.data(), address(memory), bytes);
    return content;
  }

  CUstream stream() {
    CUstream stream{};
    call<decltype(&::cuStreamCreate)>("cuStreamCreate", &stream, CU_STREAM_NON_BLOCKING);
    return stream;
  }

  void wait() { call<decltype(&::cuCtxSynchronize)>("cuCtxSynchronize"); }

  //! Record what work launches into a graph, call between, launch the graph.
  template <class Work, class Between>
  void replayed(CUstream stream, Work work, Between between) {
    CUgraph graph{};
    CUgraphExec executable{};
    call<CUresult (*)(CUstream, CUstreamCaptureMode)>("cuStreamBeginCapture_v2", stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
    work();
    call<decltype(&::cuStreamEndCapture)>("cuStreamEndCapture", stream, &graph);
    call<CUresult (*)(CUgraphExec*, CUgraph, unsigned long long)>("cuGraphInstantiateWithFlags", &executable, graph,
                                                                  0ULL);
    between();
    call<CUresult (*)(CUgraphExec, CUstream)>("cuGraphLaunch", executable, stream);
  }

 private:
  template <class Function, class... Arguments>
  void call(char const* name, Arguments... arguments) {
    static void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
    auto const function = driver ? reinterpret_cast<Function>(dlsym(driver, name)) : nullptr;
    int const result = function ? static_cast<int>(function(arguments...)) : -1;
    if (result != 0) {
      std::cout << "error " << name << " gave " << result << std::endl;
      std::exit(1);
    }
  }

  void* allocate(std::size_t bytes) {
    CUdeviceptr memory{};
    call<CUresult (*)(CUdeviceptr*, std::size_t)>("cuMemAlloc_v2", &memory, bytes);
    return reinterpret_cast<void*>(memory);
  }

  static CUdeviceptr address(void const* memory) { return reinterpret_cast<CUdeviceptr>(memory); }
};

}  // namespace plugin_host
