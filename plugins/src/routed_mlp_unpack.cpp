//! RoutedMlpUnpack: the stream with every row's update added to its tokens.
#include "creator.hpp"

namespace sparsesam {
namespace {

using namespace nvinfer1;

constexpr char kUnpack[] = "RoutedMlpUnpack";

//! Places of inputs.
constexpr int kStream = 0, kUpdate = 1, kRowOfToken = 2;

class RoutedMlpUnpack final : public Plugin {
 public:
  RoutedMlpUnpack()
      : Plugin(kUnpack, {{"x", Input::Type::element, 3},
                         {"update", Input::Type::element, 3},
                         {"row_of_token", Input::Type::index, 2}}) {}

  IPluginV3* clone() noexcept override { return new (std::nothrow) RoutedMlpUnpack(*this); }

  std::int32_t getNbOutputs() const noexcept override { return 1; }

 protected:
  std::vector<SavedField> savedFields() const override { return {}; }

  void outputShapes(DimsExprs const* inputs, DimsExprs* outputs, IExprBuilder&) const override {
    outputs[0] = inputs[kStream];
  }

  std::string check(std::vector<Dims> const& in, Element element) const override {
    std::int64_t const batch = in[kStream].d[0], tokens = in[kStream].d[1], channels = in[kStream].d[2];
    if (in[kUpdate].d[0] != batch || in[kUpdate].d[2] != channels) {
      return mismatch("update", in[kUpdate], "(" + std::to_string(batch) + ", rows, " + std::to_string(channels) + ")");
    }
    if (in[kRowOfToken].d[0] != batch || in[kRowOfToken].d[1] != tokens) {
      return mismatch("row_of_token", in[kRowOfToken],
                      "(" + std::to_string(batch) + ", " + std::to_string(tokens) + ")");
    }
    auto const problem = missing("unpack", static_cast<int>(channels), element);
    return problem.empty() ? tooManyImages(batch) : problem;
  }

  std::size_t workspace(std::vector<Dims> const&) const override { return 0; }

  std::string prepare(std::vector<Dims> const& in, Element element) override {
    mBatch = in[kStream].d[0];
    mTokens = in[kStream].d[1];
    mRows = in[kUpdate].d[1];
    std::string why;
    mKernel.load("unpack", static_cast<int>(in[kStream].d[2]), element, why);
    return why;
  }

  bool launch(void const* const* in, void* const* out, void*, cudaStream_t stream) const override {
    UnpackArguments arguments;
    arguments.x = in[kStream];
    arguments.update = in[kUpdate];
    arguments.row_of_token = in[kRowOfToken];
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
  creators.push_back(std::make_unique<Creator>(
      kUnpack, std::vector<FieldName>{}, [](Fields&) -> IPluginV3* { return new (std::nothrow) RoutedMlpUnpack(); }));
  return creators;
}

}  // namespace sparsesam
