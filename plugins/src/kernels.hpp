//! The embedded kernels: which there are, and how one is loaded and launched.
#pragma once
#include <NvInferRuntime.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "driver.hpp"
#include "kernel_arguments.hpp"

namespace sparsesam {

//! Element types that kernels are compiled for.
enum class Element { fp16, bf16, fp32 };

//! The element type of a tensor; nothing where no kernel could have it.
std::optional<Element> elementOf(nvinfer1::DataType type);

//! One kernel for one GPU, as the table of the build has it.
struct Image {
  char const* kernel;  //!< such as "lattice"
  int width;           //!< head_dim or embed_dim
  Element element;
  int capability;        //!< 90 for 9.0; 0 for PTX, which any GPU from 8.0 on compiles for itself
  char const* function;  //!< its name in the code
  int numWarps;
  int shared;                  //!< bytes of dynamic shared memory
  int block;                   //!< rows that one program computes
  std::uint64_t offset, size;  //!< in the blob
};

//! Whether the library has any kernels of this element type.
bool hasKernels(Element element);

//! Empty, or why the library has no such kernel.
std::string missing(std::string_view kernel, int width, Element element);

//! A kernel loaded into the current CUDA context. Copies share the code.
class Kernel {
 public:
  //! Load the image for the current device, or its PTX. Nothing, with the reason in why, where there is none.
  static std::optional<Kernel> load(std::string_view kernel, int width, Element element, char const* function,
                                    std::string& why);

  int block() const { return mImage->block; }

  //! Launch gridX * gridY programs with the arguments at the address. Does not wait, allocate or load.
  bool launch(cudaStream_t stream, std::int64_t gridX, std::int64_t gridY, void* arguments,
              std::size_t size) const noexcept;

 private:
  Image const* mImage{};
  Driver const* mDriver{};
  std::shared_ptr<void> mLibrary;  //!< the CUlibrary; unloaded with the last kernel that uses it
  CUfunction mFunction{};
};

//! A kernel that takes Arguments, one of the structs in kernel_arguments.hpp.
template <class Arguments>
class TypedKernel {
 public:
  bool load(std::string_view kernel, int width, Element element, std::string& why) {
    mKernel = Kernel::load(kernel, width, element, Arguments::kFunction, why);
    return mKernel.has_value();
  }

  int block() const { return mKernel->block(); }

  bool launch(cudaStream_t stream, std::int64_t gridX, std::int64_t gridY, Arguments arguments) const noexcept {
    return mKernel->launch(stream, gridX, gridY, &arguments, sizeof(arguments));
  }

 private:
  std::optional<Kernel> mKernel;
};

}  // namespace sparsesam
