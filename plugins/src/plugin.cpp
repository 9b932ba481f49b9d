#include "plugin.hpp"

#include <algorithm>
#include <cstring>
#include <exception>

#include "log.hpp"

namespace sparsesam {

using namespace nvinfer1;

std::string describe(Dims const& shape) {
  std::string text = "(";
  for (int i = 0; i < shape.nbDims; ++i) {
    text += (i ? ", " : "") + std::to_string(shape.d[i]);
  }
  return text + ")";
}

std::string mismatch(char const* name, Dims const& shape, std::string const& wanted) {
  return std::string(name) + " has shape " + describe(shape) + ", not " + wanted;
}

std::string tooManyImages(std::int64_t batch) {
  constexpr std::int64_t most = 65535;
  return batch <= most ? std::string()
                       : "x has " + std::to_string(batch) + " images, more than " + std::to_string(most);
}

Plugin::Plugin(Plugin const& other)
    : IPluginV3(other),
      IPluginV3OneCore(other),
      IPluginV3OneBuild(other),
      IPluginV3OneRuntime(other),
      mNodeType(other.mNodeType)  // fields point into the object they are of, so they are made anew
{}

IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

std::int32_t Plugin::fail(std::string const& problem) const noexcept {
  logError(std::string(mNodeType.name) + ": " + problem + ".");
  return -1;
}

//! TensorRT's interface does not throw: no memory, for one, becomes a status.
template <class Work>
std::int32_t Plugin::guarded(Work work) const noexcept {
  try {
    std::string const problem = work();
    return problem.empty() ? 0 : fail(problem);
  } catch (std::exception const& error) {
    return fail(error.what());
  }
}

bool Plugin::supportsFormatCombination(std::int32_t pos, DynamicPluginTensorDesc const* inOut, std::int32_t nbInputs,
                                       std::int32_t) noexcept {
  if (nbInputs != static_cast<std::int32_t>(mNodeType.inputs.size())) {
    fail("has " + std::to_string(nbInputs) + " inputs, not " + std::to_string(mNodeType.inputs.size()));
    return false;
  }
  auto const& desc = inOut[pos].desc;
  if (desc.format != TensorFormat::kLINEAR) {
    return false;
  }
  bool const index = pos < nbInputs ? mNodeType.inputs[pos].type == Input::Type::index : isIndexOutput(pos - nbInputs);
  if (index) {
    return desc.type == DataType::kINT32;
  }
  if (pos != 0) {
    return desc.type == inOut[0].desc.type;
  }
  auto const element = elementOf(desc.type);
  if (element && hasKernels(*element)) {
    return true;
  }
  if (!mTypeRefused) {  // once: a builder may try every type on every format
    mTypeRefused = true;
    logWarning(std::string(mNodeType.name) + ": no kernels for data type " +
               std::to_string(static_cast<int>(desc.type)) + " of " + mNodeType.inputs[0].name +
               " in this library; export float16 or bfloat16, or build the library with " +
               "that type (SPARSESAM_ELEMENTS).");
  }
  return false;
}

std::int32_t Plugin::getOutputDataTypes(DataType* outputTypes, std::int32_t nbOutputs, DataType const* inputTypes,
                                        std::int32_t nbInputs) const noexcept {
  return guarded([&]() -> std::string {
    if (nbInputs < 1) {
      return "has no inputs";
    }
    for (std::int32_t i = 0; i < nbOutputs; ++i) {
      outputTypes[i] = isIndexOutput(i) ? DataType::kINT32 : inputTypes[0];
    }
    return {};
  });
}

std::string Plugin::verifyRanks(std::vector<Dims> const& inputs) const {
  if (inputs.size() != mNodeType.inputs.size()) {
    return "has " + std::to_string(inputs.size()) + " inputs, not " + std::to_string(mNodeType.inputs.size());
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].nbDims != mNodeType.inputs[i].rank) {
      return std::string(mNodeType.inputs[i].name) + " has " + std::to_string(inputs[i].nbDims) + " dimensions, not " +
             std::to_string(mNodeType.inputs[i].rank);
    }
  }
  return {};
}

std::string Plugin::verify(std::vector<Dims> const& inputs, DataType type) const {
  auto const problem = verifyRanks(inputs);
  if (!problem.empty()) {
    return problem;
  }
  auto const element = elementOf(type);
  if (!element) {
    return std::string(mNodeType.inputs[0].name) + " is of data type " + std::to_string(static_cast<int>(type)) +
           ", not float32, float16 or bfloat16";
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    for (int axis = 0; axis < inputs[i].nbDims; ++axis) {
      if (inputs[i].d[axis] < 0 || inputs[i].d[axis] > INT32_MAX) {
        return std::string(mNodeType.inputs[i].name) + " has shape " + describe(inputs[i]) +
               ", which is unknown or too large";
      }
    }
  }
  return check(inputs, *element);
}

namespace {

template <class Desc>
std::vector<Dims> shapes(Desc const* inputs, std::int32_t count, Dims (*shape)(Desc const&)) {
  std::vector<Dims> all;
  for (std::int32_t i = 0; i < count; ++i) {
    all.push_back(shape(inputs[i]));
  }
  return all;
}

Dims usual(DynamicPluginTensorDesc const& desc) { return desc.opt; }
Dims largest(DynamicPluginTensorDesc const& desc) { return desc.max; }  // upper bounds, which need not fit each other
Dims current(PluginTensorDesc const& desc) { return desc.dims; }

Dims ranks(DimsExprs const& shape) {
  Dims dims{};
  dims.nbDims = shape.nbDims;
  return dims;
}

bool same(std::vector<Dims> const& some, std::vector<Dims> const& others) {
  return std::equal(some.begin(), some.end(), others.begin(), others.end(),
                    [](Dims const& a, Dims const& b) { return std::equal(a.d, a.d + a.nbDims, b.d, b.d + b.nbDims); });
}

}  // namespace

std::int32_t Plugin::getOutputShapes(DimsExprs const* inputs, std::int32_t nbInputs, DimsExprs const*, std::int32_t,
                                     DimsExprs* outputs, std::int32_t, IExprBuilder& builder) noexcept {
  return guarded([&] {
    auto const problem = verifyRanks(shapes(inputs, nbInputs, ranks));
    if (problem.empty()) {
      outputShapes(inputs, outputs, builder);
    }
    return problem;
  });
}

std::int32_t Plugin::configurePlugin(DynamicPluginTensorDesc const* in, std::int32_t nbInputs,
                                     DynamicPluginTensorDesc const*, std::int32_t) noexcept {
  return guarded([&] {
    return nbInputs < 1 ? std::string("has no inputs") : verify(shapes(in, nbInputs, usual), in[0].desc.type);
  });
}

std::size_t Plugin::getWorkspaceSize(DynamicPluginTensorDesc const* inputs, std::int32_t nbInputs,
                                     DynamicPluginTensorDesc const*, std::int32_t) const noexcept {
  std::size_t bytes = 0;
  guarded([&] {
    auto const dims = shapes(inputs, nbInputs, largest);
    auto const problem = verifyRanks(dims);
    if (problem.empty()) {
      bytes = workspace(dims);
    }
    return problem;
  });
  return bytes;
}

void const* Plugin::valueOf(Field const& field) const { return static_cast<char const*>(attributes()) + field.offset; }

char const* Plugin::getTimingCacheID() noexcept {
  mTimingCacheId = std::string(mNodeType.name) + " " + kBuildId;  // other kernels, other times
  for (auto const& field : mNodeType.fields) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, valueOf(field), sizeof(bits));
    mTimingCacheId += " " + std::string(field.name) + "=" + std::to_string(bits);
  }
  return mTimingCacheId.c_str();
}

std::int32_t Plugin::onShapeChange(PluginTensorDesc const* in, std::int32_t nbInputs, PluginTensorDesc const* out,
                                   std::int32_t nbOutputs) noexcept {
  return guarded([&]() -> std::string {
    auto dims = shapes(in, nbInputs, current);
    if (!dims.empty() && same(dims, mPreparedShapes) && in[0].type == mPreparedType) {
      return {};  // an address has changed, no shape
    }
    mPreparedShapes.clear();
    auto problem = dims.empty() ? std::string("has no inputs") : verify(dims, in[0].type);
    if (problem.empty() && nbOutputs != getNbOutputs()) {
      problem = "has " + std::to_string(nbOutputs) + " outputs, not " + std::to_string(getNbOutputs());
    }
    if (problem.empty()) {
      problem = prepare(dims, shapes(out, nbOutputs, current), *elementOf(in[0].type));
    }
    if (problem.empty()) {
      mPreparedType = in[0].type;
      mPreparedShapes = std::move(dims);
    }
    return problem;
  });
}

std::int32_t Plugin::enqueue(PluginTensorDesc const*, PluginTensorDesc const*, void const* const* inputs,
                             void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  return !mPreparedShapes.empty() && launch(inputs, outputs, workspace, stream) ? 0 : -1;
}

PluginFieldCollection const* Plugin::getFieldsToSerialize() noexcept {
  mFields.clear();
  for (auto const& field : mNodeType.fields) {
    mFields.emplace_back(field.name, valueOf(field), field.type, 1);
  }
  mFieldCollection = {static_cast<std::int32_t>(mFields.size()), mFields.data()};
  return &mFieldCollection;
}

}  // namespace sparsesam
