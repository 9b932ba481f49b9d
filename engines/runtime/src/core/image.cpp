#include "core/image.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>

#include "core/failure.hpp"

// Compiled with -ffp-contract=off: a fused multiply-add would round differently from Pillow and torch.

namespace sparsesam {
namespace {

constexpr int channels = 3;
constexpr std::uint32_t one = std::uint32_t{1} << 22U;  // Pillow: 32 bits less 8 of the result and 2 for overflow
constexpr std::int32_t longest_side = 16777216;

// The source pixels of each resampled position, and their fixed-point weights.
struct Resampling {
  struct Span {
    int first = 0;
    int count = 0;
  };
  std::vector<Span> spans;
  std::vector<std::uint32_t> weights;  // (positions, width), in units of 1 / one
  int width = 0;                       // weights kept for each position
};

// Pillow's precompute_coeffs and normalize_coeffs_8bpc (src/libImaging/Resample.c) for its bilinear filter.
Resampling resampling(int from, int to) {
  const double scale = static_cast<double>(from) / to;
  const double support = std::max(scale, 1.0);
  const double inverse = 1.0 / support;
  Resampling result;
  result.width = static_cast<int>(std::ceil(support)) * 2 + 1;
  result.spans.resize(static_cast<std::size_t>(to));
  result.weights.assign(static_cast<std::size_t>(to) * static_cast<std::size_t>(result.width), 0);
  std::vector<double> exact(static_cast<std::size_t>(result.width));
  for (int position = 0; position < to; ++position) {
    const double center = (position + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - support + 0.5), 0);
    const int count = std::min(static_cast<int>(center + support + 0.5), from) - first;
    double sum = 0;
    for (int i = 0; i < count; ++i) {
      const double distance = std::abs((i + first - center + 0.5) * inverse);
      exact[static_cast<std::size_t>(i)] = distance < 1.0 ? 1.0 - distance : 0.0;
      sum += exact[static_cast<std::size_t>(i)];
    }
    std::uint32_t* weights =
        &result.weights[static_cast<std::size_t>(position) * static_cast<std::size_t>(result.width)];
    for (int i = 0; i < count; ++i) {
      const double weight = sum == 0.0 ? exact[static_cast<std::size_t>(i)] : exact[static_cast<std::size_t>(i)] / sum;
      weights[i] = static_cast<std::uint32_t>(0.5 + weight * one);
    }
    result.spans[static_cast<std::size_t>(position)] = {first, count};
  }
  return result;
}

constexpr std::uint32_t half = one / 2;

std::uint8_t clip8(std::uint32_t sum) { return static_cast<std::uint8_t>(std::min(sum / one, std::uint32_t{255})); }

// Interleaved RGB rows.
struct Pixels {
  std::vector<std::uint8_t> owned;
  const std::uint8_t* data = nullptr;
  std::size_t row_stride = 0;
  Size size;
};

Pixels blank(Size size) {
  Pixels pixels;
  pixels.row_stride = static_cast<std::size_t>(size.width) * channels;
  pixels.owned.resize(static_cast<std::size_t>(size.height) * pixels.row_stride);
  pixels.data = pixels.owned.data();
  pixels.size = size;
  return pixels;
}

Pixels resize_width(const Pixels& from, int width) {
  const Resampling plan = resampling(from.size.width, width);
  Pixels to = blank({from.size.height, width});
  std::uint8_t* out = to.owned.data();
  for (std::int32_t y = 0; y < from.size.height; ++y) {
    const std::uint8_t* row = from.data + static_cast<std::size_t>(y) * from.row_stride;
    const std::uint32_t* weights = plan.weights.data();
    for (const auto [first, count] : plan.spans) {
      std::array<std::uint32_t, channels> sums{half, half, half};
      const std::uint8_t* pixel = row + static_cast<std::ptrdiff_t>(first) * channels;
      for (int i = 0; i < count; ++i, pixel += channels) {
        sums[0] += pixel[0] * weights[i];
        sums[1] += pixel[1] * weights[i];
        sums[2] += pixel[2] * weights[i];
      }
      *out++ = clip8(sums[0]);
      *out++ = clip8(sums[1]);
      *out++ = clip8(sums[2]);
      weights += plan.width;
    }
  }
  return to;
}

Pixels resize_height(const Pixels& from, int height) {
  const Resampling plan = resampling(from.size.height, height);
  Pixels to = blank({height, from.size.width});
  const std::size_t row_bytes = to.row_stride;
  std::vector<std::uint32_t> sums(row_bytes);
  std::uint8_t* out = to.owned.data();
  const std::uint32_t* weights = plan.weights.data();
  for (const auto [first, count] : plan.spans) {
    std::fill(sums.begin(), sums.end(), half);
    for (int i = 0; i < count; ++i) {
      const std::uint8_t* row = from.data + static_cast<std::size_t>(first + i) * from.row_stride;
      const std::uint32_t weight = weights[i];
      for (std::size_t x = 0; x < row_bytes; ++x) {
        sums[x] += row[x] * weight;
      }
    }
    out = std::transform(sums.begin(), sums.end(), out, clip8);
    weights += plan.width;
  }
  return to;
}

// Pillow scales rows first, but since 13.0 columns first where the height shrinks by more than twice what the width
// does.
bool height_first(Size from, Size to) {
  const std::int32_t rows_lost = from.height - to.height;
  return rows_lost > 0 && rows_lost > 2 * (from.width - to.width);
}

Pixels resize(Pixels pixels, Size to) {
  const bool tall = height_first(pixels.size, to);
  if (tall) {
    pixels = resize_height(pixels, to.height);
  }
  if (to.width != pixels.size.width) {
    pixels = resize_width(pixels, to.width);
  }
  if (to.height != pixels.size.height) {
    pixels = resize_height(pixels, to.height);
  }
  return pixels;
}

}  // namespace

Size input_size(Size original) {
  const auto [height, width] = original;
  const std::string given = "image of " + std::to_string(width) + "x" + std::to_string(height) + " pixels";
  if (height < 1 || width < 1) {
    throw Failure(SPARSESAM_INVALID_INPUT, given + " is empty; give an image of at least one pixel.");
  }
  if (std::max(height, width) > longest_side) {
    throw Failure(SPARSESAM_INVALID_INPUT,
                  given + " is too large; scale it down to sides of at most " + std::to_string(longest_side) + ".");
  }
  const double scale = image_size * 1.0 / std::max(height, width);
  const Size scaled{static_cast<std::int32_t>(height * scale + 0.5), static_cast<std::int32_t>(width * scale + 0.5)};
  if (scaled.height == 0 || scaled.width == 0) {
    throw Failure(SPARSESAM_INVALID_INPUT,
                  given + " is too narrow: nothing is left of its short side when its long side is scaled to " +
                      std::to_string(image_size) + "; crop it into wider pieces.");
  }
  return scaled;
}

Size preprocess(const sparsesam_image& image, float* tensor) {
  const Size size = input_size({image.height, image.width});
  const std::size_t tight = static_cast<std::size_t>(image.width) * channels;
  if (image.row_stride != 0 && image.row_stride < tight) {
    throw Failure(SPARSESAM_INVALID_INPUT, "row_stride " + std::to_string(image.row_stride) +
                                               " is less than a row of " + std::to_string(tight) +
                                               " bytes; give 0 for rows without a gap.");
  }
  Pixels pixels;
  pixels.data = image.data;
  pixels.row_stride = image.row_stride == 0 ? tight : image.row_stride;
  pixels.size = {image.height, image.width};
  pixels = resize(std::move(pixels), size);
  constexpr std::size_t plane = static_cast<std::size_t>(image_size) * image_size;
  for (std::size_t channel = 0; channel < channels; ++channel) {
    std::array<float, 256> normalised{};
    for (std::size_t value = 0; value < normalised.size(); ++value) {
      normalised.at(value) = (static_cast<float>(value) - pixel_mean.at(channel)) / pixel_std.at(channel);
    }
    float* out = tensor + channel * plane;
    for (std::int32_t y = 0; y < size.height; ++y, out += image_size) {
      const std::uint8_t* row = pixels.data + static_cast<std::size_t>(y) * pixels.row_stride + channel;
      for (std::int32_t x = 0; x < size.width; ++x) {
        out[x] = normalised[row[static_cast<std::ptrdiff_t>(x) * channels]];
      }
      std::fill(out + size.width, out + image_size, 0.0F);
    }
    std::fill(out, tensor + (channel + 1) * plane, 0.0F);
  }
  return size;
}

MaskUpscaler::MaskUpscaler(const float* low_res_mask, Size original) : low_res_(low_res_mask) {
  const Size input = input_size(original);
  input_width_ = input.width;
  frame_rows_ = taps(low_res, image_size, input.height);
  frame_columns_ = taps(low_res, image_size, input.width);
  rows_ = taps(input.height, original.height, original.height);
  columns_ = taps(input.width, original.width, original.width);
  for (std::vector<float>& row : cache_) {
    row.resize(static_cast<std::size_t>(input.width));
  }
}

// torch's upsample_bilinear2d with align_corners=False: the first `count` of `to` positions, in float32.
std::vector<MaskUpscaler::Tap> MaskUpscaler::taps(std::int32_t from, std::int32_t to, std::int32_t count) {
  const float scale = static_cast<float>(from) / static_cast<float>(to);
  std::vector<Tap> result(static_cast<std::size_t>(count));
  for (std::int32_t position = 0; position < count; ++position) {
    const float source = std::max((static_cast<float>(position) + 0.5F) * scale - 0.5F, 0.0F);
    Tap& tap = result[static_cast<std::size_t>(position)];
    tap.low = std::min(static_cast<std::int32_t>(source), from - 1);
    tap.high = std::min(tap.low + 1, from - 1);
    tap.weight_high = std::clamp(source - static_cast<float>(tap.low), 0.0F, 1.0F);
    tap.weight_low = 1.0F - tap.weight_high;
  }
  return result;
}

// Row `y` of the 1024 frame, as wide as the image inside it.
const float* MaskUpscaler::frame_row(std::int32_t y) {
  const auto slot = static_cast<std::size_t>(y) % 2;
  std::vector<float>& row = cache_.at(slot);
  if (cached_.at(slot) == y) {
    return row.data();
  }
  const Tap& vertical = frame_rows_[static_cast<std::size_t>(y)];
  const float* low = low_res_ + static_cast<std::ptrdiff_t>(vertical.low) * low_res;
  const float* high = low_res_ + static_cast<std::ptrdiff_t>(vertical.high) * low_res;
  for (std::size_t x = 0; x < row.size(); ++x) {
    const Tap& tap = frame_columns_[x];
    row[x] = vertical.weight_low * (tap.weight_low * low[tap.low] + tap.weight_high * low[tap.high]) +
             vertical.weight_high * (tap.weight_low * high[tap.low] + tap.weight_high * high[tap.high]);
  }
  cached_.at(slot) = y;
  return row.data();
}

void MaskUpscaler::row(std::int32_t y, float* logits) {
  const Tap& vertical = rows_[static_cast<std::size_t>(y)];
  const float* low = frame_row(vertical.low);
  const float* high = frame_row(vertical.high);
  for (std::size_t x = 0; x < columns_.size(); ++x) {
    const Tap& tap = columns_[x];
    logits[x] = vertical.weight_low * (tap.weight_low * low[tap.low] + tap.weight_high * low[tap.high]) +
                vertical.weight_high * (tap.weight_low * high[tap.low] + tap.weight_high * high[tap.high]);
  }
}

}  // namespace sparsesam
