#include "plugin.hpp"

#include "log.hpp"
#include <cstring>

namespace sparsesam {

using namespace nvinfer1;

std::string describe(Dims const& shape)
{
    std::string text = "(";
    for (int i = 0; i < shape.nbDims; ++i) {
        text += (i ? ", " : "") + std::to_string(shape.d[i]);
    }
    return text + ")";
}

Plugin::Plugin(Plugin const& other)
    : IPluginV3(other)
    , IPluginV3OneCore(other)
    , IPluginV3OneBuild(other)
    , IPluginV3OneRuntime(other)
    , mName(other.mName)
    , mInputs(other.mInputs) // fields point into the object they are of, so they are made anew
{
}

IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept
{
    switch (type) {
    case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

bool Plugin::supportsFormatCombination(
    std::int32_t pos, DynamicPluginTensorDesc const* inOut, std::int32_t nbInputs, std::int32_t) noexcept
{
    if (nbInputs != static_cast<std::int32_t>(mInputs.size())) {
        fail("has " + std::to_string(nbInputs) + " inputs, not " + std::to_string(mInputs.size()));
        return false;
    }
    auto const& desc = inOut[pos].desc;
    if (desc.format != TensorFormat::kLINEAR) {
        return false;
    }
    bool const index = pos < nbInputs ? mInputs[pos].type == Input::Type::index : isIndexOutput(pos - nbInputs);
    if (index) {
        return desc.type == DataType::kINT32;
    }
    return pos == 0 ? elementOf(desc.type).has_value() : desc.type == inOut[0].desc.type;
}

std::int32_t Plugin::getOutputDataTypes(
    DataType* outputTypes, std::int32_t nbOutputs, DataType const* inputTypes, std::int32_t) const noexcept
{
    for (std::int32_t i = 0; i < nbOutputs; ++i) {
        outputTypes[i] = isIndexOutput(i) ? DataType::kINT32 : inputTypes[0];
    }
    return 0;
}

std::string Plugin::verify(std::vector<Dims> const& inputs, DataType type) const
{
    if (inputs.size() != mInputs.size()) {
        return "has " + std::to_string(inputs.size()) + " inputs, not " + std::to_string(mInputs.size());
    }
    auto const element = elementOf(type);
    if (!element) {
        return std::string(mInputs[0].name) + " is of data type " + std::to_string(static_cast<int>(type))
            + ", not float32, float16 or bfloat16";
    }
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        if (inputs[i].nbDims != mInputs[i].rank) {
            return std::string(mInputs[i].name) + " has shape " + describe(inputs[i]) + ", not "
                + std::to_string(mInputs[i].rank) + " dimensions";
        }
        for (int axis = 0; axis < inputs[i].nbDims; ++axis) {
            if (inputs[i].d[axis] < 0 || inputs[i].d[axis] > INT32_MAX) {
                return std::string(mInputs[i].name) + " has shape " + describe(inputs[i]) + ", which is unknown or too large";
            }
        }
    }
    return check(inputs, *element);
}

std::int32_t Plugin::fail(std::string const& problem) const noexcept
{
    logError(std::string(mName) + ": " + problem + ".");
    return -1;
}

namespace {

template <class Desc>
std::vector<Dims> shapes(Desc const* inputs, std::int32_t count, Dims (*shape)(Desc const&))
{
    std::vector<Dims> all;
    for (std::int32_t i = 0; i < count; ++i) {
        all.push_back(shape(inputs[i]));
    }
    return all;
}

Dims largest(DynamicPluginTensorDesc const& desc) { return desc.max; }
Dims current(PluginTensorDesc const& desc) { return desc.dims; }

} // namespace

std::int32_t Plugin::configurePlugin(
    DynamicPluginTensorDesc const* in, std::int32_t nbInputs, DynamicPluginTensorDesc const*, std::int32_t) noexcept
{
    auto const problem = verify(shapes(in, nbInputs, largest), in[0].desc.type);
    return problem.empty() ? 0 : fail(problem);
}

std::size_t Plugin::getWorkspaceSize(DynamicPluginTensorDesc const* inputs, std::int32_t nbInputs,
    DynamicPluginTensorDesc const*, std::int32_t) const noexcept
{
    auto const dims = shapes(inputs, nbInputs, largest);
    auto const problem = verify(dims, inputs[0].desc.type);
    if (!problem.empty()) {
        fail(problem);
        return 0;
    }
    return workspace(dims, *elementOf(inputs[0].desc.type));
}

char const* Plugin::getTimingCacheID() noexcept
{
    mTimingCacheId = kBuildId; // other kernels, other times
    for (auto const& field : savedFields()) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, field.value, sizeof(bits));
        mTimingCacheId += " " + std::string(field.name) + "=" + std::to_string(bits);
    }
    return mTimingCacheId.c_str();
}

std::int32_t Plugin::onShapeChange(
    PluginTensorDesc const* in, std::int32_t nbInputs, PluginTensorDesc const*, std::int32_t) noexcept
{
    auto const dims = shapes(in, nbInputs, current);
    auto problem = verify(dims, in[0].type);
    if (problem.empty()) {
        problem = prepare(dims, *elementOf(in[0].type));
    }
    return problem.empty() ? 0 : fail(problem);
}

PluginFieldCollection const* Plugin::getFieldsToSerialize() noexcept
{
    mFields.clear();
    for (auto const& field : savedFields()) {
        mFields.emplace_back(field.name, field.value, field.type, 1);
    }
    mFieldCollection = {static_cast<std::int32_t>(mFields.size()), mFields.data()};
    return &mFieldCollection;
}

} // namespace sparsesam
