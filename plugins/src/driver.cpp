#include "driver.hpp"

#include <dlfcn.h>

namespace sparsesam {
namespace {

constexpr char kLibrary[] = "libcuda.so.1";

struct Found {
  Driver driver;
  std::string problem;
};

template <class Function>
void find(void* library, char const* name, Function& function, std::string& problem) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (!function && problem.empty()) {
    problem = std::string("the CUDA driver has no ") + name + "; install driver 525 or later (CUDA 12.0)";
  }
}

Found load() {
  Found found;
  // Never closed: kernels and their functions may be used until the process ends.
  void* const library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    found.problem = std::string("no CUDA driver (") + kLibrary + "); run on a machine with an NVIDIA GPU";
    return found;
  }
  Driver& driver = found.driver;
  find(library, "cuInit", driver.init, found.problem);
  find(library, "cuGetErrorString", driver.getErrorString, found.problem);
  find(library, "cuCtxGetDevice", driver.ctxGetDevice, found.problem);
  find(library, "cuDeviceGetAttribute", driver.deviceGetAttribute, found.problem);
  find(library, "cuLibraryLoadData", driver.libraryLoadData, found.problem);
  find(library, "cuLibraryUnload", driver.libraryUnload, found.problem);
  find(library, "cuLibraryGetKernel", driver.libraryGetKernel, found.problem);
  find(library, "cuKernelGetFunction", driver.kernelGetFunction, found.problem);
  find(library, "cuFuncSetAttribute", driver.funcSetAttribute, found.problem);
  find(library, "cuLaunchKernel", driver.launchKernel, found.problem);
  find(library, "cuMemsetD32Async", driver.memsetD32Async, found.problem);
  if (found.problem.empty()) {
    CUresult const result = driver.init(0);
    if (result != CUDA_SUCCESS) {
      found.problem = "the CUDA driver does not start: " + driver.describe(result);
    }
  }
  return found;
}

}  // namespace

Driver const* Driver::get(std::string& why) {
  static Found const found = load();
  if (found.problem.empty()) {
    return &found.driver;
  }
  why = found.problem;
  return nullptr;
}

std::string Driver::describe(CUresult result) const {
  char const* text = nullptr;
  if (getErrorString(result, &text) != CUDA_SUCCESS || !text) {
    text = "unknown error";
  }
  return std::string(text) + " (" + std::to_string(static_cast<int>(result)) + ")";
}

}  // namespace sparsesam
