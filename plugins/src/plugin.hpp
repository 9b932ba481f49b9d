//! What all plugins share: one class plays the three parts of IPluginV3, node types differ in shapes and launches.
#pragma once
#include <NvInferRuntime.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "node_types.hpp"

namespace sparsesam {

using nvinfer1::DataType;
using nvinfer1::Dims;

constexpr char kVersion[] = "1";
constexpr char kNamespace[] = "";

inline std::int64_t ceilDivide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

//! Sizes that have been checked: no dimension is above INT32_MAX.
inline std::int32_t narrow(std::int64_t value) { return static_cast<std::int32_t>(value); }

//! "(1, 4096, 768)".
std::string describe(Dims const& shape);

//! That an input has another shape than wanted.
std::string mismatch(char const* name, Dims const& shape, std::string const& wanted);

//! Empty unless the batch does not fit the grid's second axis, which CUDA limits.
std::string tooManyImages(std::int64_t batch);

//! One node. Everything that depends on a shape, a GPU or a context is made in onShapeChange, which TensorRT calls on
//! the clone of each execution context, and again whenever an address changes; enqueue only launches.
class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime {
 public:
  //! A node of this type, which is one of node_types.hpp.
  explicit Plugin(NodeType const& type) : mNodeType(type) {}

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept final { return clone(); }

  nvinfer1::AsciiChar const* getPluginName() const noexcept final { return mNodeType.name; }
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept final { return kVersion; }
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept final { return kNamespace; }

  bool supportsFormatCombination(std::int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut,
                                 std::int32_t nbInputs, std::int32_t nbOutputs) noexcept final;
  std::int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, std::int32_t nbInputs,
                               nvinfer1::DimsExprs const* shapeInputs, std::int32_t nbShapeInputs,
                               nvinfer1::DimsExprs* outputs, std::int32_t nbOutputs,
                               nvinfer1::IExprBuilder& builder) noexcept final;
  std::int32_t getOutputDataTypes(DataType* outputTypes, std::int32_t nbOutputs, DataType const* inputTypes,
                                  std::int32_t nbInputs) const noexcept final;
  std::int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, std::int32_t nbInputs,
                               nvinfer1::DynamicPluginTensorDesc const* out, std::int32_t nbOutputs) noexcept final;
  std::size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, std::int32_t nbInputs,
                               nvinfer1::DynamicPluginTensorDesc const* outputs,
                               std::int32_t nbOutputs) const noexcept final;
  char const* getTimingCacheID() noexcept final;
  std::int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, std::int32_t nbInputs,
                             nvinfer1::PluginTensorDesc const* out, std::int32_t nbOutputs) noexcept final;
  std::int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
                       void const* const* inputs, void* const* outputs, void* workspace,
                       cudaStream_t stream) noexcept final;
  nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept final;

 protected:
  Plugin(Plugin const& other);  //!< not ready, whatever the other is: that is of its context

  //! The struct of attributes that the node type's fields lie in; null where it has none.
  virtual void const* attributes() const = 0;
  //! Is output i int32, not the graph's type?
  virtual bool isIndexOutput(std::int32_t) const { return false; }
  //! Shapes of the outputs from those of the inputs, whose number and ranks are right.
  virtual void outputShapes(nvinfer1::DimsExprs const* inputs, nvinfer1::DimsExprs* outputs,
                            nvinfer1::IExprBuilder& builder) const = 0;
  //! Empty, or what is wrong with these shapes, whose ranks are right, or with this element type.
  virtual std::string check(std::vector<Dims> const& inputs, Element element) const = 0;
  //! Bytes of workspace for shapes up to these. It is kept in the engine, so no table of this build may enter it.
  virtual std::size_t workspace(std::vector<Dims> const& inputs) const = 0;
  //! Load kernels for shapes that passed the check, and keep what launch needs; empty, or why that failed. The outputs'
  //! shapes are those of outputShapes.
  virtual std::string prepare(std::vector<Dims> const& inputs, std::vector<Dims> const& outputs, Element element) = 0;
  //! Launch what was prepared.
  virtual bool launch(void const* const* in, void* const* out, void* workspace, cudaStream_t stream) const = 0;

 private:
  std::string verify(std::vector<Dims> const& inputs, DataType type) const;
  std::string verifyRanks(std::vector<Dims> const& inputs) const;
  std::int32_t fail(std::string const& problem) const noexcept;
  void const* valueOf(Field const& field) const;
  template <class Work>
  std::int32_t guarded(Work work) const noexcept;

  NodeType const& mNodeType;
  std::vector<Dims> mPreparedShapes;  //!< empty unless prepare has succeeded for them
  DataType mPreparedType{};
  bool mTypeRefused{false};
  std::string mTimingCacheId;
  std::vector<nvinfer1::PluginField> mFields;
  nvinfer1::PluginFieldCollection mFieldCollection{};
};

//! The creators of this folder's node types.
std::vector<std::unique_ptr<nvinfer1::IPluginCreatorInterface>> attentionCreators();
std::vector<std::unique_ptr<nvinfer1::IPluginCreatorInterface>> routedMlpPackCreators();
std::vector<std::unique_ptr<nvinfer1::IPluginCreatorInterface>> routedMlpUnpackCreators();

}  // namespace sparsesam
