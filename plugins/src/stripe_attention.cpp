//! StripeAttention* nodes: position terms, then the kernel for the node's kind of stripe.
#include <algorithm>
#include <cmath>

#include "creator.hpp"

namespace sparsesam {
namespace {

using namespace nvinfer1;

constexpr std::int64_t kWindowRows = 256;  //!< slots of a window in whole blocks of up to 256 rows
constexpr double kLog2E = 1.4426950408889634;

class StripeAttention final : public Plugin {
 public:
  StripeAttention(StripeAttentionType const& type, StripeAttentionAttributes attributes)
      : Plugin(type), mType(type), mAttributes(attributes) {}

  IPluginV3* clone() noexcept override { return new (std::nothrow) StripeAttention(*this); }

  std::int32_t getNbOutputs() const noexcept override { return 1; }

 protected:
  void const* attributes() const override { return &mAttributes; }

  void outputShapes(DimsExprs const* inputs, DimsExprs* outputs, IExprBuilder& builder) const override {
    auto const& qkv = inputs[mType.qkv];
    outputs[0] = qkv;
    outputs[0].d[2] = builder.operation(DimensionOperation::kFLOOR_DIV, *qkv.d[2], *builder.constant(3));
  }

  std::string check(std::vector<Dims> const& in, Element element) const override {
    std::int64_t const tokens = in[mType.qkv].d[1], width = in[mType.qkv].d[2], heads = mAttributes.num_heads;
    if (tokens != kGridSize * kGridSize) {
      return "qkv has shape " + describe(in[mType.qkv]) + ", but the kernels are for a grid of " +
             std::to_string(kGridSize) + "x" + std::to_string(kGridSize) + " tokens";
    }
    if (width % (3 * heads) != 0 || width == 0) {
      return "qkv has " + std::to_string(width) +
             " channels, which are not 3 times num_heads = " + std::to_string(heads) + " times a head_dim";
    }
    auto const shape = shapeOf(in);
    auto const expected = expectedShapes(in, shape);
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (!std::equal(in[i].d, in[i].d + in[i].nbDims, expected[i].d)) {
        return mismatch(mType.inputs[i].name, in[i], describe(expected[i]));
      }
    }
    if (shape.keys < 1 || shape.keys > shape.slots) {
      return "keys lists " + std::to_string(shape.keys) + " of " + std::to_string(shape.slots) + " slots";
    }
    std::int64_t const offsets = mAttributes.lattice_offsets;
    if (offsets && shape.keys != offsets * tokens / kTile) {
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

  std::string prepare(std::vector<Dims> const& in, std::vector<Dims> const&, Element element) override {
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
    std::int64_t const side = mType.windowed ? kWindowSize : kGridSize, heads = mAttributes.num_heads;
    auto const& keys = in[mType.dense ? mType.qkv : mType.keys];
    return {in[mType.qkv].d[0],
            in[mType.qkv].d[1],
            in[mType.qkv].d[2] / 3 / heads,
            heads,
            side,
            side * side,
            mType.windowed ? in[mType.members].d[0] : 1,
            mType.dense ? side * side : keys.d[keys.nbDims - 1]};
  }

  //! What inputs must look like, given what qkv and the number of windows and keys are.
  std::vector<Dims> expectedShapes(std::vector<Dims> const& in, Shape const& shape) const {
    std::vector<Dims> expected(in.size());
    expected[mType.qkv] = in[mType.qkv];
    expected[mType.rel_pos_h] = expected[mType.rel_pos_w] = Dims{2, {2 * shape.side - 1, shape.headDim}};
    expected[mType.rel_index] = Dims{2, {shape.side, shape.side}};
    if (mType.windowed) {
      expected[mType.qkv_bias] = Dims{1, {in[mType.qkv].d[2]}};
      expected[mType.members] = Dims{2, {shape.windows, shape.slots}};
      expected[mType.slots] = Dims{1, {shape.tokens}};
    } else {
      expected[mType.perm] = expected[mType.inv_perm] = Dims{1, {shape.tokens}};
    }
    std::int64_t const tables = shape.batch * shape.windows, tiles = shape.tokens / kTile;
    if (!mType.dense) {
      expected[mType.keys] = mType.ranked ? Dims{3, {tables, shape.heads, shape.keys}} : Dims{1, {shape.keys}};
    }
    if (mType.own_tile) {
      expected[mType.tiles] = mType.ranked ? Dims{4, {tables, shape.heads, tiles, kTile}} : Dims{2, {tiles, kTile}};
      expected[mType.tile_in_stripe] = Dims{2, {tiles, kTile}};
    }
    return expected;
  }

  Path path() const {
    if (mType.windowed && mType.dense) {
      return Path::window;
    }
    return mAttributes.lattice_offsets > 0 ? Path::lattice : Path::listed;
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
    if (mType.windowed) {
      return {"relative_terms_windowed", "listed_windowed"};
    }
    return {"relative_terms", mType.own_tile ? "listed_own_tile" : "listed"};
  }

  //! Steps of the smallest regular sub-grid that holds all key rows and columns, as lattice.py has them.
  std::pair<std::int32_t, std::int32_t> steps() const {
    if (path() != Path::lattice) {
      return {1, 1};
    }
    int bits = 0;
    while ((1 << bits) < mAttributes.lattice_offsets) {
      ++bits;
    }
    return {kPatch >> ((bits + 1) / 2), kPatch >> (bits / 2)};
  }

  std::int64_t windowBlocks() const { return ceilDivide(mShape.slots, mWindow.block()); }
  std::int32_t heads() const { return mAttributes.num_heads; }
  float scaleInBase2() const { return static_cast<float>(mAttributes.scale * kLog2E); }

  bool launchTerms(void const* const* in, void* terms, cudaStream_t stream) const {
    auto const [rowStep, colStep] = steps();
    RelativeTermsArguments arguments;
    arguments.qkv = in[mType.qkv];
    arguments.rel_pos_h = in[mType.rel_pos_h];
    arguments.rel_pos_w = in[mType.rel_pos_w];
    arguments.source = mType.windowed ? in[mType.members] : in[mType.inv_perm];
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
    arguments.qkv = in[mType.qkv];
    arguments.terms = terms;
    arguments.perm = in[mType.perm];
    arguments.out = out;
    arguments.num_heads = heads();
    arguments.num_offsets = mAttributes.lattice_offsets;
    arguments.row_step = rowStep;
    arguments.col_step = colStep;
    arguments.scale = scaleInBase2();
    return mLattice.launch(stream, mShape.tokens / mLattice.block() * mShape.sequences(), 1, arguments);
  }

  bool launchWindow(void const* const* in, void* out, void* scratch, cudaStream_t stream) const {
    WindowAttentionArguments arguments;
    arguments.qkv = in[mType.qkv];
    arguments.qkv_bias = in[mType.qkv_bias];
    arguments.rel_pos_h = in[mType.rel_pos_h];
    arguments.rel_pos_w = in[mType.rel_pos_w];
    arguments.scratch = scratch;
    arguments.members = in[mType.members];
    arguments.out = out;
    arguments.num_heads = heads();
    arguments.num_windows = narrow(mShape.windows);
    arguments.num_tokens = narrow(mShape.tokens);
    arguments.scale = scaleInBase2();
    arguments.log2_e = static_cast<float>(kLog2E);
    return mWindow.launch(stream, windowBlocks() * mShape.sequences(), 1, arguments);
  }

  bool launchListed(void const* const* in, void* out, void const* terms, cudaStream_t stream) const {
    void const* const unused = in[mType.rel_index];
    bool const windowed = mType.windowed, ranked = mType.ranked;
    ListedAttentionArguments arguments;
    arguments.qkv = in[mType.qkv];
    arguments.qkv_bias = windowed ? in[mType.qkv_bias] : unused;
    arguments.terms = terms;
    arguments.perm = windowed ? unused : in[mType.perm];
    arguments.source = windowed ? in[mType.members] : in[mType.inv_perm];
    arguments.keys = in[mType.keys];
    arguments.tiles = mType.own_tile ? in[mType.tiles] : unused;
    arguments.tile_in_stripe = mType.own_tile ? in[mType.tile_in_stripe] : unused;
    arguments.out = out;
    arguments.num_heads = heads();
    arguments.num_sequences = narrow(mShape.windows);
    arguments.num_tokens = narrow(mShape.tokens);
    arguments.num_keys = narrow(mShape.keys);
    arguments.keys_stride = ranked ? narrow(mShape.keys) : 0;
    arguments.tiles_stride = ranked && mType.own_tile ? narrow(mShape.slots) : 0;
    arguments.scale = scaleInBase2();
    return mListed.launch(stream, ceilDivide(mShape.slots, mListed.block()) * mShape.sequences(), 1, arguments);
  }

  StripeAttentionType const& mType;
  StripeAttentionAttributes mAttributes;
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
  std::vector<std::unique_ptr<IPluginCreatorInterface>> creators;
  for (auto const& type : kStripeAttentionTypes) {
    creators.push_back(std::make_unique<Creator>(type, [&type](Fields& given) -> IPluginV3* {
      StripeAttentionAttributes attributes;
      attributes.num_heads = given.integer("num_heads", 1, kMostHeads);
      attributes.scale = given.positive("scale");
      // Dense attention over the whole image is the full lattice; windows and the other orders have none.
      bool const whole = type.dense && !type.windowed;
      bool const lattice = !type.windowed && !type.own_tile;
      attributes.lattice_offsets = given.integer("lattice_offsets", whole ? kTile : 0, lattice ? kTile : 0);
      return new (std::nothrow) StripeAttention(type, attributes);
    }));
  }
  return creators;
}

}  // namespace sparsesam
