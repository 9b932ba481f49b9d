#include "fields.hpp"

#include <cmath>
#include <cstring>

namespace sparsesam {

using nvinfer1::PluginFieldType;

void Fields::refuse(std::string const& problem) {
  if (mProblem.empty()) {
    mProblem = problem + "; export the ONNX file again with this release of sparsesam-deploy";
  }
}

void const* Fields::find(char const* name, PluginFieldType type, char const* typeName) {
  int const count = mCollection && mCollection->fields ? mCollection->nbFields : 0;
  for (int i = 0; i < count; ++i) {
    auto const& field = mCollection->fields[i];
    if (!field.name || std::strcmp(field.name, name) != 0) {
      continue;
    }
    if (field.type != type || field.length != 1 || !field.data) {
      refuse(std::string("field ") + name + " is not one " + typeName);
      return nullptr;
    }
    return field.data;
  }
  refuse(std::string("field ") + name + " is missing");
  return nullptr;
}

std::int32_t Fields::integer(char const* name, std::int32_t least, std::int32_t most) {
  std::int32_t value = 0;
  if (auto const* const data = find(name, PluginFieldType::kINT32, "int32")) {
    std::memcpy(&value, data, sizeof(value));
    if (value < least || value > most) {
      refuse(std::string("field ") + name + " is " + std::to_string(value) + ", not " + std::to_string(least) + " to " +
             std::to_string(most));
      value = 0;
    }
  }
  return value;
}

float Fields::positive(char const* name) {
  float value = 0;
  if (auto const* const data = find(name, PluginFieldType::kFLOAT32, "float32")) {
    std::memcpy(&value, data, sizeof(value));
    if (!std::isfinite(value) || value <= 0) {
      refuse(std::string("field ") + name + " is " + std::to_string(value) + ", not a positive number");
      value = 0;
    }
  }
  return value;
}

}  // namespace sparsesam
