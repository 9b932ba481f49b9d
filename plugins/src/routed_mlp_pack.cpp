//! RoutedMlpPack*: the rows that go through the matrix products of a routed MLP.
#include <cmath>

#include "creator.hpp"

namespace sparsesam {
namespace {

using namespace nvinfer1;

class RoutedMlpPack final : public Plugin {
 public:
  RoutedMlpPack(RoutedMlpPackType const& type, RoutedMlpPackAttributes attributes)
      : Plugin(type), mType(type), mAttributes(attributes) {}

  IPluginV3* clone() noexcept override { return new (std::nothrow) RoutedMlpPack(*this); }

  std::int32_t getNbOutputs() const noexcept override { return 2; }

 protected:
  void const* attributes() const override { return &mAttributes; }

  bool isIndexOutput(std::int32_t output) const override { return output == 1; }

  void outputShapes(DimsExprs const* inputs, DimsExprs* outputs, IExprBuilder& builder) const override {
    auto const& x = inputs[mType.x];
    outputs[0] = x;
    if (mType.selection == Selection::given) {
      outputs[0].d[1] = inputs[mType.keep_indices].d[1];
    } else {
      outputs[0].d[1] = builder.constant(kGroup * mAttributes.num_groups);
      if (mType.share) {  // N / 4 + 3 * num_groups - 3 * num_merged, as Route.num_rows in routing.py
        auto const* const groups =
            builder.operation(DimensionOperation::kFLOOR_DIV, *x.d[1], *builder.constant(kGroup));
        auto const* const most = builder.operation(DimensionOperation::kSUM, *groups,
                                                   *builder.constant((kGroup - 1) * mAttributes.num_groups));
        outputs[0].d[1] = builder.operation(DimensionOperation::kSUB, *most,
                                            *builder.constant((kGroup - 1) * mAttributes.num_merged));
      }
    }
    outputs[1].nbDims = 2;
    outputs[1].d[0] = x.d[0];
    outputs[1].d[1] = x.d[1];
  }

  std::string check(std::vector<Dims> const& in, Element element) const override {
    std::int64_t const batch = in[mType.x].d[0], tokens = in[mType.x].d[1], channels = in[mType.x].d[2];
    for (int i : {mType.weight, mType.bias}) {
      if (in[i].d[0] != channels) {
        return mismatch(mType.inputs[i].name, in[i], "(" + std::to_string(channels) + ")");
      }
    }
    if (mType.selection == Selection::given) {
      auto const& keep = in[mType.keep_indices];
      if ((keep.d[0] != 1 && keep.d[0] != batch) || keep.d[1] > tokens) {
        return mismatch("keep_indices", keep,
                        "(" + std::to_string(batch) + " or 1, at most " + std::to_string(tokens) + ")");
      }
    } else if (tokens % kGroup != 0 || mAttributes.num_groups > tokens / kGroup) {
      return "num_groups is " + std::to_string(mAttributes.num_groups) + ", but x of shape " + describe(in[mType.x]) +
             " has groups of " + std::to_string(kGroup) + " tokens";
    } else if (mType.selection == Selection::quadtree &&
               (tokens % kSquare != 0 ||
                mAttributes.num_merged > (tokens / kGroup - mAttributes.num_groups) / kGroup)) {
      return "num_merged is " + std::to_string(mAttributes.num_merged) + ", but x of shape " + describe(in[mType.x]) +
             " has squares of " + std::to_string(kSquare) + " tokens, and num_groups is " +
             std::to_string(mAttributes.num_groups);
    }
    if (mType.selection == Selection::sobel) {
      for (int i : {mType.perm, mType.inv_perm}) {
        if (in[i].d[0] != tokens) {
          return mismatch(mType.inputs[i].name, in[i], "(" + std::to_string(tokens) + ")");
        }
      }
      if (gridSize(tokens) * gridSize(tokens) != tokens) {
        return mismatch("x", in[mType.x], "the tokens of a square grid");
      }
    }
    for (auto const* kernel : kernelNames()) {
      auto const problem = missing(kernel, static_cast<int>(channels), element);
      if (!problem.empty()) {
        return problem;
      }
    }
    return tooManyImages(batch);
  }

  std::size_t workspace(std::vector<Dims> const& in) const override {
    if (mType.selection == Selection::given) {
      return 0;
    }
    std::int64_t const tokens = in[mType.x].d[0] * in[mType.x].d[1];
    std::int64_t const squares = mType.selection == Selection::quadtree ? tokens / kSquare : 0;
    return static_cast<std::size_t>(tokens / kGroup + squares) * sizeof(float);
  }

  std::string prepare(std::vector<Dims> const& in, std::vector<Dims> const& out, Element element) override {
    mBatch = in[mType.x].d[0];
    mTokens = in[mType.x].d[1];
    mRows = out[0].d[1];
    int const width = static_cast<int>(in[mType.x].d[2]);
    auto const names = kernelNames();
    std::string why;
    switch (mType.selection) {
      case Selection::given:
        mKeepStride = in[mType.keep_indices].d[0] == 1 ? 0 : mRows;
        mDriver = Driver::get(why);
        if (mDriver) {
          mGiven.load(names[0], width, element, why);
        }
        break;
      case Selection::variance:
        mScore.load(names[0], width, element, why) && mPackKernel.load(names[1], width, element, why);
        break;
      case Selection::sobel:
        mSobel.load(names[0], width, element, why) && mPackKernel.load(names[1], width, element, why);
        break;
      case Selection::quadtree:
        mQuadtreeScore.load(names[0], width, element, why) && mQuadtreeMerge.load(names[1], width, element, why) &&
            mQuadtreePack.load(names[2], width, element, why);
        break;
    }
    return why;
  }

  bool launch(void const* const* in, void* const* out, void* workspace, cudaStream_t stream) const override {
    if (mType.selection == Selection::given) {
      return launchGiven(in, out[0], out[1], stream);
    }
    if (mType.selection == Selection::quadtree) {
      return launchQuadtree(in, workspace, out[0], out[1], stream);
    }
    return launchScores(in, workspace, stream) && launchPack(in, workspace, out[0], out[1], stream);
  }

 private:
  static std::int64_t gridSize(std::int64_t tokens) { return std::llround(std::sqrt(static_cast<double>(tokens))); }

  std::vector<char const*> kernelNames() const {
    char const* const pack = mType.share ? "pack_share" : "pack_skip";
    switch (mType.selection) {
      case Selection::variance:
        return {"score", pack};
      case Selection::sobel:
        return {"sobel", pack};
      case Selection::quadtree:
        return {"quadtree_score", "quadtree_merge", "quadtree_pack"};
      case Selection::given:
        break;
    }
    return {"given"};
  }

  //! The arguments that every kernel has which normalises x.
  template <class Arguments>
  Arguments normalising(void const* const* in) const {
    Arguments arguments;
    arguments.x = in[mType.x];
    arguments.weight = in[mType.weight];
    arguments.bias = in[mType.bias];
    arguments.epsilon = mAttributes.epsilon;
    return arguments;
  }

  bool launchScores(void const* const* in, void* scores, cudaStream_t stream) const {
    std::int64_t const groups = mTokens / kGroup;
    if (mType.selection == Selection::variance) {
      auto arguments = normalising<ScoreArguments>(in);
      arguments.scores = scores;
      arguments.num_all = narrow(groups);
      return mScore.launch(stream, ceilDivide(groups, mScore.block()), mBatch, arguments);
    }
    SobelArguments arguments;
    arguments.x = in[mType.x];
    arguments.perm = in[mType.perm];
    arguments.inv_perm = in[mType.inv_perm];
    arguments.scores = scores;
    arguments.num_all = narrow(groups);
    arguments.grid_size = narrow(gridSize(mTokens));
    return mSobel.launch(stream, ceilDivide(groups, mSobel.block()), mBatch, arguments);
  }

  bool launchPack(void const* const* in, void const* scores, void* rows, void* rowOfToken, cudaStream_t stream) const {
    std::int64_t const groups = mTokens / kGroup;
    auto arguments = normalising<PackArguments>(in);
    arguments.scores = scores;
    arguments.rows = rows;
    arguments.row_of_token = rowOfToken;
    arguments.num_all = narrow(groups);
    arguments.num_groups = mAttributes.num_groups;
    arguments.num_rows = narrow(mRows);
    return mPackKernel.launch(stream, ceilDivide(groups, mPackKernel.block()), mBatch, arguments);
  }

  bool launchQuadtree(void const* const* in, void* workspace, void* rows, void* rowOfToken, cudaStream_t stream) const {
    std::int64_t const squares = mTokens / kSquare;
    auto* const scores = static_cast<float*>(workspace);
    float* const squareScores = scores + mBatch * mTokens / kGroup;  // a multiple of 16 bytes, as kernels are told
    auto score = normalising<QuadtreeScoreArguments>(in);
    score.scores = scores;
    score.square_scores = squareScores;
    score.num_squares = narrow(squares);
    QuadtreeMergeArguments merge;
    merge.scores = scores;
    merge.square_scores = squareScores;
    merge.num_squares = narrow(squares);
    merge.num_merged = mAttributes.num_merged;
    auto pack = normalising<QuadtreePackArguments>(in);
    pack.scores = scores;
    pack.rows = rows;
    pack.row_of_token = rowOfToken;
    pack.num_squares = narrow(squares);
    pack.num_groups = mAttributes.num_groups;
    pack.num_merged = mAttributes.num_merged;
    pack.num_rows = narrow(mRows);
    return mQuadtreeScore.launch(stream, ceilDivide(squares, mQuadtreeScore.block()), mBatch, score) &&
           mQuadtreeMerge.launch(stream, ceilDivide(squares, mQuadtreeMerge.block()), mBatch, merge) &&
           mQuadtreePack.launch(stream, ceilDivide(squares, mQuadtreePack.block()), mBatch, pack);
  }

  bool launchGiven(void const* const* in, void* rows, void* rowOfToken, cudaStream_t stream) const {
    std::size_t const words = static_cast<std::size_t>(mBatch * mTokens);
    CUresult const cleared =
        mDriver->memsetD32Async(reinterpret_cast<CUdeviceptr>(rowOfToken), static_cast<unsigned>(mRows), words, stream);
    if (cleared != CUDA_SUCCESS) {
      logError(std::string(mType.name) + ": row_of_token was not filled: " + mDriver->describe(cleared));
      return false;
    }
    auto arguments = normalising<GivenArguments>(in);
    arguments.keep = in[mType.keep_indices];
    arguments.keep_stride = narrow(mKeepStride);
    arguments.rows = rows;
    arguments.row_of_token = rowOfToken;
    arguments.num_tokens = narrow(mTokens);
    arguments.num_rows = narrow(mRows);
    return mGiven.launch(stream, ceilDivide(mRows, mGiven.block()), mBatch, arguments);
  }

  RoutedMlpPackType const& mType;
  RoutedMlpPackAttributes mAttributes;
  // Made by prepare, of one context.
  std::int64_t mBatch{}, mTokens{}, mRows{}, mKeepStride{};
  Driver const* mDriver{};
  TypedKernel<ScoreArguments> mScore;
  TypedKernel<SobelArguments> mSobel;
  TypedKernel<PackArguments> mPackKernel;
  TypedKernel<QuadtreeScoreArguments> mQuadtreeScore;
  TypedKernel<QuadtreeMergeArguments> mQuadtreeMerge;
  TypedKernel<QuadtreePackArguments> mQuadtreePack;
  TypedKernel<GivenArguments> mGiven;
};

}  // namespace

std::vector<std::unique_ptr<IPluginCreatorInterface>> routedMlpPackCreators() {
  std::vector<std::unique_ptr<IPluginCreatorInterface>> creators;
  for (auto const& type : kRoutedMlpPackTypes) {
    creators.push_back(std::make_unique<Creator>(type, [&type](Fields& given) -> IPluginV3* {
      RoutedMlpPackAttributes attributes;
      attributes.epsilon = given.positive("epsilon");
      // keep_indices says what is computed in full, and only a quadtree has squares.
      std::int32_t const most = type.selection == Selection::given ? 0 : INT32_MAX / kGroup;
      attributes.num_groups = given.integer("num_groups", 0, most);
      if (type.selection == Selection::quadtree) {
        attributes.num_merged = given.integer("num_merged", 0, INT32_MAX / kSquare);
      }
      return new (std::nothrow) RoutedMlpPack(type, attributes);
    }));
  }
  return creators;
}

}  // namespace sparsesam
