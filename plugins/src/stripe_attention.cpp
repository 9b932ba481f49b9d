//! StripeAttention* nodes: position terms, then the kernel for the node's kind of stripe.
#include <algorithm>
#include <cmath>

#include "creator.hpp"

namespace sparsesam {
namespace {

using namespace nvinfer1;

constexpr std::int64_t kPatch = 8, kTile = 64;
constexpr std::int64_t kWindowRows = 256;  //!< slots of a window in whole blocks of up to 256 rows
constexpr double kLog2E = 1.4426950408889634;

//! What distinguishes one node type from another; NodeAttributes are its fields.
struct Pattern {
  char const* name;
  bool windowed, dense, ranked, ownTile;
};

constexpr Pattern kPatterns[] = {
    {"StripeAttention", false, false, false, false},
    {"StripeAttentionDense", false, true, false, false},
    {"StripeAttentionInterleaved", false, false, false, true},
    {"StripeAttentionRanked", false, false, true, true},
    {"StripeAttentionWindowed", true, false, false, false},
    {"StripeAttentionWindowedDense", true, true, false, false},
    {"StripeAttentionWindowedRanked", true, false, true, false},
};

struct NodeAttributes {
  std::int32_t numHeads;
  float scale;
  std::int32_t latticeOffsets;  //!< how many lattice offsets the keys are; 0 where a table lists them
};

//! Places of inputs.
constexpr int kQkv = 0, kRelPosH = 1, kRelPosW = 2, kRelIndex = 3;
constexpr int kPerm = 4, kInvPerm = 5, kKeys = 6, kTiles = 7, kTileInStripe = 8;  // of the whole image
constexpr int kQkvBias = 4, kMembers = 5, kWindowedKeys = 7;                      // of windows; 6 is slots

std::vector<Input> inputsOf(Pattern const& pattern) {
  auto const element = Input::Type::element, index = Input::Type::index;
  std::vector<Input> inputs{
      {"qkv", element, 3}, {"rel_pos_h", element, 2}, {"rel_pos_w", element, 2}, {"rel_index", index, 2}};
  if (pattern.windowed) {
    inputs.insert(inputs.end(), {{"qkv_bias", element, 1}, {"members", index, 2}, {"slots", index, 1}});
  } else {
    inputs.insert(inputs.end(), {{"perm", index, 1}, {"inv_perm", index, 1}});
  }
  if (!pattern.dense) {
    inputs.push_back({"keys", index, pattern.ranked ? 3 : 1});
  }
  if (pattern.ownTile) {
    inputs.insert(inputs.end(), {{"tiles", index, pattern.ranked ? 4 : 2}, {"tile_in_stripe", index, 2}});
  }
  return inputs;
}

class StripeAttention final : public Plugin {
 public:
  StripeAttention(Pattern const& pattern, NodeAttributes attributes)
      : Plugin(pattern.name, inputsOf(pattern)), mPattern(pattern), mAttributes(attributes) {}

  IPluginV3* clone() noexcept override { return new (std::nothrow) StripeAttention(*this); }

  std::int32_t getNbOutputs() const noexcept override { return 1; }

 protected:
  std::vector<SavedField> savedFields() const override {
    return {{"num_heads", PluginFieldType::kINT32, &mAttributes.numHeads},
            {"scale", PluginFieldType::kFLOAT32, &mAttributes.scale},
            {"lattice_offsets", PluginFieldType::kINT32, &mAttributes.latticeOffsets}};
  }

  void outputShapes(DimsExprs const* inputs, DimsExprs* outputs, IExprBuilder& builder) const override {
    outputs[0] = inputs[kQkv];
    outputs[0].d[2] = builder.operation(DimensionOperation::kFLOOR_DIV, *inputs[kQkv].d[2], *builder.constant(3));
  }

  std::string check(std::vector<Dims> const& in, Element element) const override {
    std::int64_t const tokens = in[kQkv].d[1], width = in[kQkv].d[2], heads = mAttributes.numHeads;
    if (tokens != kGridSize * kGridSize) {
      return "qkv has shape " + describe(in[kQkv]) + ", but the kernels are for a grid of " +
             std::to_string(kGridSize) + "x" + std::to_string(kGridSize) + " tokens";
    }
    if (width % (3 * heads) != 0 || width == 0) {
      return "qkv has " + std::to_string(width) +
             " channels, which are not 3 times num_heads = " + std::to_string(heads) + " times a head_dim";
    }
    auto const shape = shapeOf(in);
    std::vector<Dims> expected{in[kQkv], Dims{2, {2 * shape.side - 1, shape.headDim}},
                               Dims{2, {2 * shape.side - 1, shape.headDim}}, Dims{2, {shape.side, shape.side}}};
    if (mPattern.windowed) {
      Dims const members{2, {in[kMembers].d[0], shape.slots}};
      expected.insert(expected.end(), {Dims{1, {width}}, members, Dims{1, {tokens}}});
    } else {
      expected.insert(expected.end(), {Dims{1, {tokens}}, Dims{1, {tokens}}});
    }
    std::int64_t const tables = shape.batch * shape.windows;
    if (!mPattern.dense) {
      expected.push_back(mPattern.ranked ? Dims{3, {tables, heads, shape.keys}} : Dims{1, {shape.keys}});
    }
    if (mPattern.ownTile) {
      std::int64_t const tiles = tokens / kTile;
      expected.push_back(mPattern.ranked ? Dims{4, {tables, heads, tiles, kTile}} : Dims{2, {tiles, kTile}});
      expected.push_back(Dims{2, {tiles, kTile}});
    }
    auto const inputs = inputsOf(mPattern);
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (!std::equal(in[i].d, in[i].d + in[i].nbDims, expected[i].d)) {
        return std::string(inputs[i].name) + " has shape " + describe(in[i]) + ", not " + describe(expected[i]);
      }
    }
    if (shape.keys < 1 || shape.keys > shape.slots) {
      return "keys lists " + std::to_string(shape.keys) + " of " + std::to_string(shape.slots) + " slots";
    }
    std::int64_t const offsets = mAttributes.latticeOffsets;
    if (offsets && (mPattern.windowed || mPattern.ranked || shape.keys != offsets * tokens / kTile)) {
      return "lattice_offsets is " + std::to_string(offsets) + ", which " + std::to_string(shape.keys) +
             " keys of this node are not";
    }
    for (auto const* kernel : kernelNames()) {
      auto const problem = missing(kernel, static_cast<int>(shape.headDim), element);
      if (!problem.empty()) {
        return problem;
      }
    }
    return {};
  }

  std::size_t workspace(std::vector<Dims> const& in) const override {
    auto const shape = shapeOf(in);
    std::int64_t rows = kWindowRows * (kWindowSize + kWindowColumns);
    if (path() != Path::window) {
      auto const [rowStep, colStep] = steps();
      rows = (ceilDivide(shape.side, rowStep) + ceilDivide(shape.side, colStep)) * shape.slots;
    }
    return static_cast<std::size_t>(shape.sequences() * rows) * sizeof(float);
  }

  std::string prepare(std::vector<Dims> const& in, Element element) override {
    mShape = shapeOf(in);
    std::string why;
    int const width = static_cast<int>(mShape.headDim);
    auto const names = kernelNames();
    if (path() == Path::window) {
      if (mWindow.load(names[0], width, element, why) && windowBlocks() * mWindow.block() > kWindowRows) {
        return "blocks of " + std::to_string(mWindow.block()) + " slots do not fit the workspace";
      }
    } else if (mTerms.load(names[0], width, element, why)) {
      path() == Path::lattice ? mLattice.load(names[1], width, element, why)
                              : mListed.load(names[1], width, element, why);
    }
    return why;
  }

  bool launch(void const* const* in, void* const* out, void* workspace, cudaStream_t stream) const override {
    if (path() == Path::window) {
      return launchWindow(in, out[0], workspace, stream);
    }
    return launchTerms(in, workspace, stream) &&
           (path() == Path::lattice ? launchLattice(in, out[0], workspace, stream)
                                    : launchListed(in, out[0], workspace, stream));
  }

 private:
  enum class Path { lattice, window, listed };

  //! Sizes of an input of this node.
  struct Shape {
    std::int64_t batch, tokens, headDim, heads, side, slots, windows, keys;
    std::int64_t sequences() const { return batch * windows * heads; }
  };

  Shape shapeOf(std::vector<Dims> const& in) const {
    std::int64_t const side = mPattern.windowed ? kWindowSize : kGridSize, heads = mAttributes.numHeads;
    auto const& keys = in[mPattern.dense ? kQkv : mPattern.windowed ? kWindowedKeys : kKeys];
    return {in[kQkv].d[0],
            in[kQkv].d[1],
            in[kQkv].d[2] / 3 / heads,
            heads,
            side,
            side * side,
            mPattern.windowed ? in[kMembers].d[0] : 1,
            mPattern.dense ? side * side : keys.d[keys.nbDims - 1]};
  }

  Path path() const {
    if (mPattern.windowed && mPattern.dense) {
      return Path::window;
    }
    return mAttributes.latticeOffsets > 0 ? Path::lattice : Path::listed;
  }

  std::vector<char const*> kernelNames() const {
    switch (path()) {
      case Path::window:
        return {"window"};
      case Path::lattice:
        return {"relative_terms", "lattice"};
      default:
        break;
    }
    if (mPattern.windowed) {
      return {"relative_terms_windowed", "listed_windowed"};
    }
    return {"relative_terms", mPattern.ownTile ? "listed_own_tile" : "listed"};
  }

  //! Steps of the smallest regular sub-grid that holds all key rows and columns, as lattice.py has them.
  std::pair<std::int32_t, std::int32_t> steps() const {
    if (path() != Path::lattice) {
      return {1, 1};
    }
    int bits = 0;
    while ((1 << bits) < mAttributes.latticeOffsets) {
      ++bits;
    }
    return {kPatch >> ((bits + 1) / 2), kPatch >> (bits / 2)};
  }

  std::int64_t windowBlocks() const { return ceilDivide(mShape.slots, mWindow.block()); }
  std::int32_t heads() const { return mAttributes.numHeads; }
  float scaleInBase2() const { return static_cast<float>(mAttributes.scale * kLog2E); }

  bool launchTerms(void const* const* in, void* terms, cudaStream_t stream) const {
    auto const [rowStep, colStep] = steps();
    RelativeTermsArguments arguments;
    arguments.qkv = in[kQkv];
    arguments.rel_pos_h = in[kRelPosH];
    arguments.rel_pos_w = in[kRelPosW];
    arguments.source = mPattern.windowed ? in[kMembers] : in[kInvPerm];
    arguments.terms = terms;
    arguments.num_heads = heads();
    arguments.num_sequences = narrow(mShape.windows);
    arguments.num_tokens = narrow(mShape.tokens);
    arguments.row_step = rowStep;
    arguments.col_step = colStep;
    arguments.log2_e = static_cast<float>(kLog2E);
    return mTerms.launch(stream, 2 * mShape.side * mShape.sequences(), 1, arguments);
  }

  bool launchLattice(void const* const* in, void* out, void const* terms, cudaStream_t stream) const {
    auto const [rowStep, colStep] = steps();
    LatticeAttentionArguments arguments;
    arguments.qkv = in[kQkv];
    arguments.terms = terms;
    arguments.perm = in[kPerm];
    arguments.out = out;
    arguments.num_heads = heads();
    arguments.num_offsets = mAttributes.latticeOffsets;
    arguments.row_step = rowStep;
    arguments.col_step = colStep;
    arguments.scale = scaleInBase2();
    return mLattice.launch(stream, mShape.tokens / mLattice.block() * mShape.sequences(), 1, arguments);
  }

  bool launchWindow(void const* const* in, void* out, void* scratch, cudaStream_t stream) const {
    WindowAttentionArguments arguments;
    arguments.qkv = in[kQkv];
    arguments.qkv_bias = in[kQkvBias];
    arguments.rel_pos_h = in[kRelPosH];
    arguments.rel_pos_w = in[kRelPosW];
    arguments.scratch = scratch;
    arguments.members = in[kMembers];
    arguments.out = out;
    arguments.num_heads = heads();
    arguments.num_windows = narrow(mShape.windows);
    arguments.num_tokens = narrow(mShape.tokens);
    arguments.scale = scaleInBase2();
    arguments.log2_e = static_cast<float>(kLog2E);
    return mWindow.launch(stream, windowBlocks() * mShape.sequences(), 1, arguments);
  }

  bool launchListed(void const* const* in, void* out, void const* terms, cudaStream_t stream) const {
    void const* const unused = in[kRelIndex];
    bool const windowed = mPattern.windowed, ranked = mPattern.ranked;
    ListedAttentionArguments arguments;
    arguments.qkv = in[kQkv];
    arguments.qkv_bias = windowed ? in[kQkvBias] : unused;
    arguments.terms = terms;
    arguments.perm = windowed ? unused : in[kPerm];
    arguments.source = windowed ? in[kMembers] : in[kInvPerm];
    arguments.keys = in[windowed ? kWindowedKeys : kKeys];
    arguments.tiles = mPattern.ownTile ? in[kTiles] : unused;
    arguments.tile_in_stripe = mPattern.ownTile ? in[kTileInStripe] : unused;
    arguments.out = out;
    arguments.num_heads = heads();
    arguments.num_sequences = narrow(mShape.windows);
    arguments.num_tokens = narrow(mShape.tokens);
    arguments.num_keys = narrow(mShape.keys);
    arguments.keys_stride = ranked ? narrow(mShape.keys) : 0;
    arguments.tiles_stride = ranked && mPattern.ownTile ? narrow(mShape.slots) : 0;
    arguments.scale = scaleInBase2();
    return mListed.launch(stream, ceilDivide(mShape.slots, mListed.block()) * mShape.sequences(), 1, arguments);
  }

  Pattern mPattern;
  NodeAttributes mAttributes;
  // Made by prepare, of one context.
  Shape mShape{};
  TypedKernel<RelativeTermsArguments> mTerms;
  TypedKernel<LatticeAttentionArguments> mLattice;
  TypedKernel<WindowAttentionArguments> mWindow;
  TypedKernel<ListedAttentionArguments> mListed;
};

constexpr std::int32_t kMostHeads = 1024;

}  // namespace

std::vector<std::unique_ptr<IPluginCreatorInterface>> attentionCreators() {
  std::vector<FieldName> const fields{{"num_heads", PluginFieldType::kINT32},
                                      {"scale", PluginFieldType::kFLOAT32},
                                      {"lattice_offsets", PluginFieldType::kINT32}};
  std::vector<std::unique_ptr<IPluginCreatorInterface>> creators;
  for (auto const& pattern : kPatterns) {
    creators.push_back(std::make_unique<Creator>(pattern.name, fields, [&pattern](Fields& given) -> IPluginV3* {
      NodeAttributes attributes{};
      attributes.numHeads = given.integer("num_heads", 1, kMostHeads);
      attributes.scale = given.positive("scale");
      // Dense attention over the whole image is the full lattice; a window has none.
      bool const whole = pattern.dense && !pattern.windowed;
      bool const lattice = !pattern.windowed && !pattern.ranked;
      attributes.latticeOffsets = given.integer("lattice_offsets", whole ? kTile : 0, lattice ? kTile : 0);
      return new (std::nothrow) StripeAttention(pattern, attributes);
    }));
  }
  return creators;
}

}  // namespace sparsesam
