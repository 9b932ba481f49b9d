//! What a node type has: the generated node_types.hpp is written in these terms.
#pragma once
#include <NvInferRuntime.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sparsesam {

//! An input of a node.
struct Input {
  enum class Type { element, index };  //!< the graph's floating-point type, or int32
  char const* name;
  Type type;
  int rank;
};

//! A field of a node, and where its value lies in the struct of the node's attributes.
struct Field {
  char const* name;
  nvinfer1::PluginFieldType type;
  std::size_t offset;
};

//! One node type. Families of node types derive from it, with the places of their inputs, -1 for those they lack.
struct NodeType {
  char const* name;
  std::vector<Input> inputs;
  std::vector<Field> fields;
};

}  // namespace sparsesam
