//! What all plugins share: one class plays the three parts of IPluginV3, node types differ in shapes and launches.
#pragma once
#include "kernels.hpp"
#include <NvInferRuntime.h>
#include <memory>
#include <string>
#include <vector>

namespace sparsesam {

using nvinfer1::DataType;
using nvinfer1::Dims;

constexpr char kVersion[] = "1";
constexpr char kNamespace[] = "";

//! An input of a node.
struct Input {
    enum class Type { element, index }; //!< the graph's floating-point type, or int32
    char const* name;
    Type type;
    int rank;
};

//! A field that a plugin keeps in the engine, and where its value lives.
struct SavedField {
    char const* name;
    nvinfer1::PluginFieldType type;
    void const* value;
};

inline std::int64_t ceilDivide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

//! Sizes that have been checked: no dimension is above INT32_MAX.
inline std::int32_t narrow(std::int64_t value) { return static_cast<std::int32_t>(value); }

//! "(1, 4096, 768)".
std::string describe(Dims const& shape);

//! One node. Everything that depends on a shape, a GPU or a context is made in onShapeChange, which TensorRT calls on
//! the clone of each execution context; enqueue only launches.
class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime {
public:
    Plugin(char const* name, std::vector<Input> inputs) : mName(name), mInputs(std::move(inputs)) {}

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept final { return clone(); }

    nvinfer1::AsciiChar const* getPluginName() const noexcept final { return mName; }
    nvinfer1::AsciiChar const* getPluginVersion() const noexcept final { return kVersion; }
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept final { return kNamespace; }

    bool supportsFormatCombination(std::int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut,
        std::int32_t nbInputs, std::int32_t nbOutputs) noexcept final;
    std::int32_t getOutputDataTypes(DataType* outputTypes, std::int32_t nbOutputs, DataType const* inputTypes,
        std::int32_t nbInputs) const noexcept final;
    std::int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, std::int32_t nbInputs,
        nvinfer1::DynamicPluginTensorDesc const* out, std::int32_t nbOutputs) noexcept final;
    std::size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, std::int32_t nbInputs,
        nvinfer1::DynamicPluginTensorDesc const* outputs, std::int32_t nbOutputs) const noexcept final;
    char const* getTimingCacheID() noexcept final;
    std::int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, std::int32_t nbInputs,
        nvinfer1::PluginTensorDesc const* out, std::int32_t nbOutputs) noexcept final;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept final;

protected:
    Plugin(Plugin const& other);

    //! What getFieldsToSerialize hands out.
    virtual std::vector<SavedField> savedFields() const = 0;
    //! Is output i int32, not the graph's type?
    virtual bool isIndexOutput(std::int32_t) const { return false; }
    //! Empty, or what is wrong with these shapes, whose ranks are right, or with this element type.
    virtual std::string check(std::vector<Dims> const& inputs, Element element) const = 0;
    //! Bytes of workspace for shapes that passed the check.
    virtual std::size_t workspace(std::vector<Dims> const& inputs, Element element) const = 0;
    //! Load kernels for shapes that passed the check, and keep what enqueue needs; empty, or why that failed.
    virtual std::string prepare(std::vector<Dims> const& inputs, Element element) = 0;

private:
    std::string verify(std::vector<Dims> const& inputs, DataType type) const;
    std::int32_t fail(std::string const& problem) const noexcept;

    char const* mName;
    std::vector<Input> mInputs;
    std::string mTimingCacheId;
    std::vector<nvinfer1::PluginField> mFields;
    nvinfer1::PluginFieldCollection mFieldCollection{};
};

//! The creators of this folder's node types.
std::vector<std::unique_ptr<nvinfer1::IPluginCreatorInterface>> attentionCreators();
std::vector<std::unique_ptr<nvinfer1::IPluginCreatorInterface>> routedMlpCreators();

} // namespace sparsesam
