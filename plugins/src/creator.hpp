//! A creator for one node type: reads and checks fields, logs what is wrong with them, never throws.
#pragma once
#include <functional>
#include <new>

#include "fields.hpp"
#include "log.hpp"
#include "plugin.hpp"

namespace sparsesam {

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  //! make builds the plugin from fields; it may be called with fields that turn out to have a problem.
  using Make = std::function<nvinfer1::IPluginV3*(Fields&)>;

  Creator(NodeType const& type, Make make) : mNodeType(type), mMake(std::move(make)) {
    for (auto const& field : type.fields) {
      mFields.emplace_back(field.name, nullptr, field.type, 1);
    }
    mFieldCollection = {static_cast<std::int32_t>(mFields.size()), mFields.data()};
  }

  nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const* layer, nvinfer1::PluginFieldCollection const* collection,
                                    nvinfer1::TensorRTPhase) noexcept override {
    Fields fields(collection);
    std::unique_ptr<nvinfer1::IPluginV3> plugin(mMake(fields));
    if (!fields.problem().empty()) {
      logError(std::string(mNodeType.name) + " of layer " + (layer ? layer : "?") + ": " + fields.problem() + ".");
      return nullptr;
    }
    return plugin.release();
  }

  nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &mFieldCollection; }
  nvinfer1::AsciiChar const* getPluginName() const noexcept override { return mNodeType.name; }
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return kVersion; }
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  NodeType const& mNodeType;
  std::vector<nvinfer1::PluginField> mFields;
  nvinfer1::PluginFieldCollection mFieldCollection{};
  Make mMake;
};

}  // namespace sparsesam
