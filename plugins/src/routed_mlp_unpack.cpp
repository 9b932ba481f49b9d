//! RoutedMlpUnpack: the stream with every row's update added to its tokens.
#include "creator.hpp"

namespace sparsesam {
namespace {

using namespace nvinfer1;

RoutedMlpUnpackType const& kType = kRoutedMlpUnpackTypes[0];

class RoutedMlpUnpack final : public Plugin {
 public:
  RoutedMlpUnpack() : Plugin(kType) {}

  IPluginV3* clone() noexcept override { return new (std::nothrow) RoutedMlpUnpack(*this); }

  std::int32_t getNbOutputs() const noexcept override { return 1; }

 protected:
  void const* attributes() const override { return nullptr; }

  void outputShapes(DimsExprs const* inputs, DimsExprs* outputs, IExprBuilder&) const override {
    outputs[0] = inputs[kType.x];
  }

  std::string check(std::vector<Dims> const& in, Element element) const override {
    std::int64_t const batch = in[kType.x].d[0], tokens = in[kType.x].d[1], channels = in[kType.x].d[2];
    if (in[kType.update].d[0] != batch || in[kType.update].d[2] != channels) {
      return mismatch("update", in[kType.update],
                      "(" + std::to_string(batch) + ", rows, " + std::to_string(channels) + ")");
    }
    if (in[kType.row_of_token].d[0] != batch || in[kType.row_of_token].d[1] != tokens) {
      return mismatch("row_of_token", in[kType.row_of_token],
                      "(" + std::to_string(batch) + ", " + std::to_string(tokens) + ")");
    }
    auto const problem = missing("unpack", static_cast<int>(channels), element);
    return problem.empty() ? tooManyImages(batch) : problem;
  }

  std::size_t workspace(std::vector<Dims> const&) const override { return 0; }

  std::string prepare(std::vector<Dims> const& in, std::vector<Dims> const&, Element element) override {
    mBatch = in[kType.x].d[0];
    mTokens = in[kType.x].d[1];
    mRows = in[kType.update].d[1];
    std::string why;
    mKernel.load("unpack", static_cast<int>(in[kType.x].d[2]), element, why);
    return why;
  }

  bool launch(void const* const* in, void* const* out, void*, cudaStream_t stream) const override {
    UnpackArguments arguments;
    arguments.x = in[kType.x];
    arguments.update = in[kType.update];
    arguments.row_of_token = in[kType.row_of_token];
    arguments.out = out[0];
    arguments.num_tokens = narrow(mTokens);
    arguments.num_rows = narrow(mRows);
    return mKernel.launch(stream, ceilDivide(mTokens, mKernel.block()), mBatch, arguments);
  }

 private:
  // Made by prepare, of one context.
  std::int64_t mBatch{}, mTokens{}, mRows{};
  TypedKernel<UnpackArguments> mKernel;
};

}  // namespace

std::vector<std::unique_ptr<IPluginCreatorInterface>> routedMlpUnpackCreators() {
  std::vector<std::unique_ptr<IPluginCreatorInterface>> creators;
  creators.push_back(
      std::make_unique<Creator>(kType, [](Fields&) -> IPluginV3* { return new (std::nothrow) RoutedMlpUnpack(); }));
  return creators;
}

}  // namespace sparsesam
