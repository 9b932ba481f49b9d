//! The CUDA driver, found when a plugin first needs it: the library links against nothing of CUDA, so it loads on
//! machines without a GPU and serves every CUDA release whose driver has these functions (12.0 and later).
#pragma once
#include <cuda.h>

#include <string>

namespace sparsesam {

struct Driver {
  decltype(&::cuInit) init{};
  decltype(&::cuGetErrorString) getErrorString{};
  decltype(&::cuCtxGetDevice) ctxGetDevice{};
  decltype(&::cuDeviceGetAttribute) deviceGetAttribute{};
  decltype(&::cuLibraryLoadData) libraryLoadData{};
  decltype(&::cuLibraryUnload) libraryUnload{};
  decltype(&::cuLibraryGetKernel) libraryGetKernel{};
  decltype(&::cuKernelGetFunction) kernelGetFunction{};
  decltype(&::cuFuncSetAttribute) funcSetAttribute{};
  decltype(&::cuLaunchKernel) launchKernel{};
  decltype(&::cuMemsetD32Async) memsetD32Async{};

  //! The process's driver; null, with the reason in why, where there is none or it is too old.
  static Driver const* get(std::string& why);

  //! What an error code means.
  std::string describe(CUresult result) const;
};

}  // namespace sparsesam
