//! TensorRT's symbolic dimensions, for shapes that are known: what getOutputShapes is given outside TensorRT.
#pragma once
#include <NvInferRuntime.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace plugin_host {

class Expression : public nvinfer1::IDimensionExpr {
 public:
  explicit Expression(std::int64_t value) : mValue(value) { mImpl = &mValue; }
  ~Expression() noexcept override = default;

 private:
  struct Value : nvinfer1::apiv::VDimensionExpr {
    explicit Value(std::int64_t constant) : value(constant) {}
    bool isConstant() const override { return true; }
    std::int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return false; }
    std::int64_t value;
  } mValue;
};

class ExpressionBuilder : public nvinfer1::IExprBuilder {
 public:
  ExpressionBuilder() { mImpl = &mOperations; }
  ~ExpressionBuilder() noexcept override = default;

  nvinfer1::DimsExprs shape(nvinfer1::Dims const& dims) {
    nvinfer1::DimsExprs shape{};
    shape.nbDims = dims.nbDims;
    for (int i = 0; i < dims.nbDims; ++i) {
      shape.d[i] = mOperations.constant(dims.d[i]);
    }
    return shape;
  }

 private:
  struct Operations : nvinfer1::apiv::VExprBuilder {
    nvinfer1::IDimensionExpr const* constant(std::int64_t value) override {
      all.push_back(std::make_unique<Expression>(value));
      return all.back().get();
    }

    nvinfer1::IDimensionExpr const* operation(nvinfer1::DimensionOperation operation,
                                              nvinfer1::IDimensionExpr const& first,
                                              nvinfer1::IDimensionExpr const& second) override {
      std::int64_t const a = first.getConstantValue(), b = second.getConstantValue();
      switch (operation) {
        case nvinfer1::DimensionOperation::kSUM:
          return constant(a + b);
        case nvinfer1::DimensionOperation::kSUB:
          return constant(a - b);
        case nvinfer1::DimensionOperation::kFLOOR_DIV:
          return constant(a / b);
        default:
          return nullptr;  // the plugins use no other
      }
    }

    nvinfer1::IDimensionExpr const* declareSizeTensor(std::int32_t, nvinfer1::IDimensionExpr const&,
                                                      nvinfer1::IDimensionExpr const&) override {
      return nullptr;
    }

    std::vector<std::unique_ptr<Expression>> all;
  } mOperations;
};

inline nvinfer1::Dims values(nvinfer1::DimsExprs const& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = shape.nbDims;
  for (int i = 0; i < shape.nbDims; ++i) {
    dims.d[i] = shape.d[i]->getConstantValue();
  }
  return dims;
}

}  // namespace plugin_host
