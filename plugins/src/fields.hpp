//! Attributes of a node as TensorRT hands them over: any of them may be missing, of another type or nonsense.
#pragma once
#include <NvInferRuntime.h>

#include <string>

namespace sparsesam {

//! Reads fields one by one and remembers the first thing that is wrong.
class Fields {
 public:
  explicit Fields(nvinfer1::PluginFieldCollection const* collection) : mCollection(collection) {}

  //! An INT of the graph, within the bounds; 0 after a problem.
  std::int32_t integer(char const* name, std::int32_t least, std::int32_t most);

  //! A FLOAT of the graph, finite and above 0; 0 after a problem.
  float positive(char const* name);

  //! Empty where all was well.
  std::string const& problem() const { return mProblem; }

 private:
  void const* find(char const* name, nvinfer1::PluginFieldType type, char const* typeName);
  void refuse(std::string const& problem);

  nvinfer1::PluginFieldCollection const* mCollection;
  std::string mProblem;
};

}  // namespace sparsesam
