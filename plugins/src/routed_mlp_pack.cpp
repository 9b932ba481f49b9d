//! RoutedMlpPack*: the rows that go through the matrix products of a routed MLP.
#include <cmath>

#include "creator.hpp"

namespace sparsesam {
namespace {

using namespace nvinfer1;

constexpr std::int64_t kGroup = 4, kSquare = 16;

//! What distinguishes one pack node type from another.
struct Pack {
  char const* name;
  enum class Selection { variance, sobel, quadtree, given } selection;
  bool share;
};

constexpr Pack kPacks[] = {
    {"RoutedMlpPackShareVariance", Pack::Selection::variance, true},
    {"RoutedMlpPackShareQuadtree", Pack::Selection::quadtree, true},
    {"RoutedMlpPackSkipSobel", Pack::Selection::sobel, false},
    {"RoutedMlpPackSkipGiven", Pack::Selection::given, false},
};

//! Places of inputs.
constexpr int kX = 0, kWeight = 1, kBias = 2, kPerm = 3, kInvPerm = 4, kKeepIndices = 3;

std::vector<Input> inputsOf(Pack const& pack) {
  auto const element = Input::Type::element, index = Input::Type::index;
  std::vector<Input> inputs{{"x", element, 3}, {"weight", element, 1}, {"bias", element, 1}};
  if (pack.selection == Pack::Selection::sobel) {
    inputs.insert(inputs.end(), {{"perm", index, 1}, {"inv_perm", index, 1}});
  } else if (pack.selection == Pack::Selection::given) {
    inputs.push_back({"keep_indices", index, 2});
  }
  return inputs;
}

struct NodeAttributes {
  float epsilon;
  std::int32_t numGroups;  //!< groups computed in full; 0 where keep_indices says what is
  std::int32_t numMerged;  //!< squares that share one row each; 0 where there are no squares
};

std::vector<FieldName> fieldsOf(Pack const& pack) {
  std::vector<FieldName> fields{{"epsilon", PluginFieldType::kFLOAT32}, {"num_groups", PluginFieldType::kINT32}};
  if (pack.selection == Pack::Selection::quadtree) {
    fields.push_back({"num_merged", PluginFieldType::kINT32});
  }
  return fields;
}

class RoutedMlpPack final : public Plugin {
 public:
  RoutedMlpPack(Pack const& pack, NodeAttributes attributes)
      : Plugin(pack.name, inputsOf(pack)), mPack(pack), mAttributes(attributes) {}

  IPluginV3* clone() noexcept override { return new (std::nothrow) RoutedMlpPack(*this); }

  std::int32_t getNbOutputs() const noexcept override { return 2; }

 protected:
  std::vector<SavedField> savedFields() const override {
    void const* const values[] = {&mAttributes.epsilon, &mAttributes.numGroups, &mAttributes.numMerged};
    std::vector<SavedField> saved;
    for (auto const& field : fieldsOf(mPack)) {
      saved.push_back({field.name, field.type, values[saved.size()]});
    }
    return saved;
  }

  bool isIndexOutput(std::int32_t output) const override { return output == 1; }

  void outputShapes(DimsExprs const* inputs, DimsExprs* outputs, IExprBuilder& builder) const override {
    auto const& x = inputs[kX];
    outputs[0] = x;
    if (mPack.selection == Pack::Selection::given) {
      outputs[0].d[1] = inputs[kKeepIndices].d[1];
    } else {
      outputs[0].d[1] = builder.constant(kGroup * mAttributes.numGroups);
      if (mPack.share) {  // N / 4 + 3 * num_groups - 3 * num_merged
        auto const* const groups =
            builder.operation(DimensionOperation::kFLOOR_DIV, *x.d[1], *builder.constant(kGroup));
        auto const* const most = builder.operation(DimensionOperation::kSUM, *groups,
                                                   *builder.constant((kGroup - 1) * mAttributes.numGroups));
        outputs[0].d[1] =
            builder.operation(DimensionOperation::kSUB, *most, *builder.constant((kGroup - 1) * mAttributes.numMerged));
      }
    }
    outputs[1].nbDims = 2;
    outputs[1].d[0] = x.d[0];
    outputs[1].d[1] = x.d[1];
  }

  std::string check(std::vector<Dims> const& in, Element element) const override {
    std::int64_t const batch = in[kX].d[0], tokens = in[kX].d[1], channels = in[kX].d[2];
    for (int i : {kWeight, kBias}) {
      if (in[i].d[0] != channels) {
        return mismatch(i == kWeight ? "weight" : "bias", in[i], "(" + std::to_string(channels) + ")");
      }
    }
    if (mPack.selection == Pack::Selection::given) {
      if ((in[kKeepIndices].d[0] != 1 && in[kKeepIndices].d[0] != batch) || in[kKeepIndices].d[1] > tokens) {
        return mismatch("keep_indices", in[kKeepIndices],
                        "(" + std::to_string(batch) + " or 1, at most " + std::to_string(tokens) + ")");
      }
    } else if (tokens % kGroup != 0 || mAttributes.numGroups > tokens / kGroup) {
      return "num_groups is " + std::to_string(mAttributes.numGroups) + ", but x of shape " + describe(in[kX]) +
             " has groups of " + std::to_string(kGroup) + " tokens";
    } else if (mPack.selection == Pack::Selection::quadtree &&
               (tokens % kSquare != 0 || mAttributes.numMerged > (tokens / kGroup - mAttributes.numGroups) / kGroup)) {
      return "num_merged is " + std::to_string(mAttributes.numMerged) + ", but x of shape " + describe(in[kX]) +
             " has squares of " + std::to_string(kSquare) + " tokens, and num_groups is " +
             std::to_string(mAttributes.numGroups);
    }
    if (mPack.selection == Pack::Selection::sobel) {
      for (int i : {kPerm, kInvPerm}) {
        if (in[i].d[0] != tokens) {
          return mismatch(i == kPerm ? "perm" : "inv_perm", in[i], "(" + std::to_string(tokens) + ")");
        }
      }
      if (gridSize(tokens) * gridSize(tokens) != tokens) {
        return mismatch("x", in[kX], "the tokens of a square grid");
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
    if (mPack.selection == Pack::Selection::given) {
      return 0;
    }
    std::int64_t const tokens = in[kX].d[0] * in[kX].d[1];
    std::int64_t const squares = mPack.selection == Pack::Selection::quadtree ? tokens / kSquare : 0;
    return static_cast<std::size_t>(tokens / kGroup + squares) * sizeof(float);
  }

  std::string prepare(std::vector<Dims> const& in, Element element) override {
    mBatch = in[kX].d[0];
    mTokens = in[kX].d[1];
    int const width = static_cast<int>(in[kX].d[2]);
    auto const names = kernelNames();
    std::string why;
    switch (mPack.selection) {
      case Pack::Selection::given:
        mRows = in[kKeepIndices].d[1];
        mKeepStride = in[kKeepIndices].d[0] == 1 ? 0 : mRows;
        mDriver = Driver::get(why);
        if (mDriver) {
          mGiven.load(names[0], width, element, why);
        }
        break;
      case Pack::Selection::variance:
        mScore.load(names[0], width, element, why) && mPackKernel.load(names[1], width, element, why);
        break;
      case Pack::Selection::sobel:
        mSobel.load(names[0], width, element, why) && mPackKernel.load(names[1], width, element, why);
        break;
      case Pack::Selection::quadtree:
        mQuadtreeScore.load(names[0], width, element, why) && mQuadtreeMerge.load(names[1], width, element, why) &&
            mQuadtreePack.load(names[2], width, element, why);
        break;
    }
    if (mPack.selection != Pack::Selection::given) {
      std::int64_t const groups = mAttributes.numGroups, merged = mAttributes.numMerged;
      mRows = kGroup * groups + (mPack.share ? mTokens / kGroup - groups - (kGroup - 1) * merged : 0);
    }
    return why;
  }

  bool launch(void const* const* in, void* const* out, void* workspace, cudaStream_t stream) const override {
    if (mPack.selection == Pack::Selection::given) {
      return launchGiven(in, out[0], out[1], stream);
    }
    if (mPack.selection == Pack::Selection::quadtree) {
      return launchQuadtree(in, workspace, out[0], out[1], stream);
    }
    return launchScores(in, workspace, stream) && launchPack(in, workspace, out[0], out[1], stream);
  }

 private:
  static std::int64_t gridSize(std::int64_t tokens) { return std::llround(std::sqrt(static_cast<double>(tokens))); }

  std::vector<char const*> kernelNames() const {
    char const* const pack = mPack.share ? "pack_share" : "pack_skip";
    switch (mPack.selection) {
      case Pack::Selection::variance:
        return {"score", pack};
      case Pack::Selection::sobel:
        return {"sobel", pack};
      case Pack::Selection::quadtree:
        return {"quadtree_score", "quadtree_merge", "quadtree_pack"};
      case Pack::Selection::given:
        break;
    }
    return {"given"};
  }

  //! The arguments that every kernel has which normalises x.
  template <class Arguments>
  Arguments normalising(void const* const* in) const {
    Arguments arguments;
    arguments.x = in[kX];
    arguments.weight = in[kWeight];
    arguments.bias = in[kBias];
    arguments.epsilon = mAttributes.epsilon;
    return arguments;
  }

  bool launchScores(void const* const* in, void* scores, cudaStream_t stream) const {
    std::int64_t const groups = mTokens / kGroup;
    if (mPack.selection == Pack::Selection::variance) {
      auto arguments = normalising<ScoreArguments>(in);
      arguments.scores = scores;
      arguments.num_all = narrow(groups);
      return mScore.launch(stream, ceilDivide(groups, mScore.block()), mBatch, arguments);
    }
    SobelArguments arguments;
    arguments.x = in[kX];
    arguments.perm = in[kPerm];
    arguments.inv_perm = in[kInvPerm];
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
    arguments.num_groups = mAttributes.numGroups;
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
    merge.num_merged = mAttributes.numMerged;
    auto pack = normalising<QuadtreePackArguments>(in);
    pack.scores = scores;
    pack.rows = rows;
    pack.row_of_token = rowOfToken;
    pack.num_squares = narrow(squares);
    pack.num_groups = mAttributes.numGroups;
    pack.num_merged = mAttributes.numMerged;
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
      logError(std::string(mPack.name) + ": row_of_token was not filled: " + mDriver->describe(cleared));
      return false;
    }
    auto arguments = normalising<GivenArguments>(in);
    arguments.keep = in[kKeepIndices];
    arguments.keep_stride = narrow(mKeepStride);
    arguments.rows = rows;
    arguments.row_of_token = rowOfToken;
    arguments.num_tokens = narrow(mTokens);
    arguments.num_rows = narrow(mRows);
    return mGiven.launch(stream, ceilDivide(mRows, mGiven.block()), mBatch, arguments);
  }

  Pack mPack;
  NodeAttributes mAttributes;
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
  for (auto const& pack : kPacks) {
    creators.push_back(std::make_unique<Creator>(pack.name, fieldsOf(pack), [&pack](Fields& given) -> IPluginV3* {
      bool const listed = pack.selection == Pack::Selection::given;
      bool const squares = pack.selection == Pack::Selection::quadtree;
      float const epsilon = given.positive("epsilon");
      std::int32_t const groups = given.integer("num_groups", 0, listed ? 0 : INT32_MAX / kGroup);
      std::int32_t const merged = squares ? given.integer("num_merged", 0, INT32_MAX / kSquare) : 0;
      return new (std::nothrow) RoutedMlpPack(pack, {epsilon, groups, merged});
    }));
  }
  return creators;
}

}  // namespace sparsesam
