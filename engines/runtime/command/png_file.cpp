#include "png_file.hpp"

#include <png.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <system_error>

#include "png_metadata.hpp"
#include "sparsesam/engine.hpp"

namespace sparsesam::command {
namespace {

constexpr std::uint64_t pillow_max_pixels = 178956970;  // 2 * PIL.Image.MAX_IMAGE_PIXELS
constexpr std::size_t max_file_bytes = std::size_t{1} << 30U;
constexpr std::uint64_t max_deflate_ratio = 1032;  // zlib's technical details: no stream expands further
constexpr png_uint_32 max_side = 1U << 24U;

[[noreturn]] void refuse(const std::string& name, const std::string& problem) {
  throw Error(SPARSESAM_INVALID_INPUT, ("image " + name + " " + problem).c_str());
}

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

// A libpng reader over bytes in memory. libpng leaves its functions by longjmp, so those that call it hold no object
// with a destructor, and tell failure by returning false.
class Reader {
 public:
  explicit Reader(std::string_view content) : content_(content) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, &Reader::on_error, &Reader::on_warning);
    info_ = png_ == nullptr ? nullptr : png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, &info_, nullptr);
      throw std::bad_alloc();
    }
  }
  ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  Reader(Reader&&) = delete;
  Reader& operator=(Reader&&) = delete;

  // Everything before the pixels.
  bool read_header() {
    if (setjmp(png_jmpbuf(png_)) != 0) {  // NOLINT(modernize-avoid-setjmp-longjmp)
      return false;
    }
    constexpr png_uint_32 max_chunks = 128;
    png_set_user_limits(png_, max_side, max_side);
    png_set_chunk_malloc_max(png_, max_chunk_bytes);
    png_set_chunk_cache_max(png_, max_chunks);
    png_set_read_fn(png_, this, &Reader::on_read);
    png_read_info(png_, info_);
    return true;
  }

  // Ask for what Pillow gives. Grey of 16 bits stays as it is.
  bool request_rgb() {
    if (setjmp(png_jmpbuf(png_)) != 0) {  // NOLINT(modernize-avoid-setjmp-longjmp)
      return false;
    }
    if (is_grey16()) {
      png_set_interlace_handling(png_);
      png_read_update_info(png_, info_);
      return true;
    }
    const png_byte colour = png_get_color_type(png_, info_);
    png_set_strip_16(png_);
    png_set_packing(png_);
    if (colour == PNG_COLOR_TYPE_PALETTE) {
      png_set_palette_to_rgb(png_);
    }
    if (colour == PNG_COLOR_TYPE_GRAY) {
      png_set_expand_gray_1_2_4_to_8(png_);
    }
    if ((colour & PNG_COLOR_MASK_COLOR) == 0) {
      png_set_gray_to_rgb(png_);
    }
    png_set_strip_alpha(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }

  bool read_pixels(png_bytepp rows) {
    if (setjmp(png_jmpbuf(png_)) != 0) {  // NOLINT(modernize-avoid-setjmp-longjmp)
      return false;
    }
    png_read_image(png_, rows);
    png_read_end(png_, info_);
    return true;
  }

  [[nodiscard]] bool is_grey16() const {
    return png_get_color_type(png_, info_) == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(png_, info_) == 16;
  }
  [[nodiscard]] png_uint_32 width() const { return png_get_image_width(png_, info_); }
  [[nodiscard]] png_uint_32 height() const { return png_get_image_height(png_, info_); }
  [[nodiscard]] std::size_t row_bytes() const { return png_get_rowbytes(png_, info_); }
  [[nodiscard]] const char* message() const { return message_.data(); }

  // The EXIF block, empty without one; valid after read_pixels.
  [[nodiscard]] std::string_view exif() const {
    png_bytep data = nullptr;
    png_uint_32 size = 0;
    if (png_get_eXIf_1(png_, info_, &size, &data) == 0) {
      return {};
    }
    return {reinterpret_cast<const char*>(data), size};
  }

 private:
  static void on_error(png_structp png, png_const_charp text) {
    auto* self = static_cast<Reader*>(png_get_error_ptr(png));
    std::snprintf(self->message_.data(), self->message_.size(), "%s", text);
    png_longjmp(png, 1);
  }

  static void on_warning(png_structp /*png*/, png_const_charp /*text*/) {}  // damaged metadata is of no interest

  static void on_read(png_structp png, png_bytep out, std::size_t size) {
    auto* self = static_cast<Reader*>(png_get_io_ptr(png));
    if (size > self->content_.size()) {
      png_error(png, "the file ends too early");
    }
    std::memcpy(out, self->content_.data(), size);
    self->content_.remove_prefix(size);
  }

  std::string_view content_;
  std::array<char, 128> message_{};
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

[[noreturn]] void refuse_damaged(const std::string& name, const Reader& reader) {
  refuse(name, std::string("cannot be decoded (") + reader.message() + "); save it again as PNG.");
}

// (v + 128) / 257 of big-endian 16-bit values, as three equal channels.
std::vector<std::uint8_t> grey_to_rgb(const std::vector<std::uint8_t>& grey16) {
  std::vector<std::uint8_t> rgb;
  rgb.reserve(grey16.size() / 2 * 3);
  for (std::size_t i = 0; i + 1 < grey16.size(); i += 2) {
    const unsigned value = (static_cast<unsigned>(grey16[i]) << 8U) | grey16[i + 1];
    rgb.insert(rgb.end(), 3, static_cast<std::uint8_t>((value + 128) / 257));
  }
  return rgb;
}

[[noreturn]] void refuse_path(const std::string& sentence, int error_number) {
  const bool disk_full = error_number == ENOSPC || error_number == EDQUOT;
  throw Error(disk_full ? SPARSESAM_ENVIRONMENT : SPARSESAM_INVALID_INPUT,
              (sentence + ": " + std::generic_category().message(error_number) +
               (disk_full ? "; free space there or choose another place." : "; check the path and its permissions."))
                  .c_str());
}

}  // namespace

RgbImage decode_png(std::string_view content, const std::string& name, std::uint64_t max_pixels) {
  if (content.size() < png_signature_size ||
      png_sig_cmp(reinterpret_cast<png_const_bytep>(content.data()), 0, png_signature_size) != 0) {
    refuse(name, "is no PNG; convert it to PNG.");
  }
  require_whole_chunks(content, name);
  Reader reader(content);
  if (!reader.read_header()) {
    refuse_damaged(name, reader);
  }
  const std::uint64_t pixels = std::uint64_t{reader.width()} * reader.height();
  if (pixels > max_pixels) {
    refuse(name, "has " + std::to_string(pixels) + " pixels, more than the " + std::to_string(max_pixels) +
                     " that are decoded; scale it down first.");
  }
  const std::uint64_t least_bits = pixels;  // one bit a pixel, and no less
  if (least_bits / 8 > content.size() * max_deflate_ratio) {
    refuse(name, "cannot be decoded (the file is too short for its size in pixels); save it again as PNG.");
  }
  const bool grey16 = reader.is_grey16();
  if (!reader.request_rgb()) {
    refuse_damaged(name, reader);
  }
  RgbImage image;
  image.height = static_cast<std::int32_t>(reader.height());
  image.width = static_cast<std::int32_t>(reader.width());
  image.pixels.resize(reader.row_bytes() * reader.height());
  std::vector<png_bytep> rows(reader.height());
  for (std::size_t y = 0; y < rows.size(); ++y) {
    rows[y] = image.pixels.data() + y * reader.row_bytes();
  }
  if (!reader.read_pixels(rows.data())) {
    refuse_damaged(name, reader);
  }
  if (const unsigned turned = orientation(reader.exif()); turned > 1 && turned <= 8) {
    refuse(name, "is stored rotated (EXIF orientation " + std::to_string(turned) + "); save it upright.");
  }
  if (grey16) {
    image.pixels = grey_to_rgb(image.pixels);
  }
  return image;
}

RgbImage read_png(const std::string& path) {
  const File file(std::fopen(path.c_str(), "rb"));
  if (!file) {
    refuse_path("cannot read image " + path, errno);
  }
  std::string content;
  std::array<char, std::size_t{1} << 16U> piece{};
  while (std::feof(file.get()) == 0 && std::ferror(file.get()) == 0) {
    const std::size_t size = std::fread(piece.data(), 1, piece.size(), file.get());
    if (content.size() + size > max_file_bytes) {
      refuse(path, "is larger than 1 GiB; scale it down first.");
    }
    content.append(piece.data(), size);
  }
  if (std::ferror(file.get()) != 0) {
    refuse_path("cannot read image " + path, errno);
  }
  return decode_png(content, path, pillow_max_pixels);
}

void write_mask_png(const std::string& path, const std::vector<std::uint8_t>& mask, std::int32_t height,
                    std::int32_t width) {
  std::vector<std::uint8_t> grey(mask.size());
  std::transform(mask.begin(), mask.end(), grey.begin(),
                 [](std::uint8_t inside) { return static_cast<std::uint8_t>(inside * 255); });
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width);
  image.height = static_cast<png_uint_32>(height);
  image.format = PNG_FORMAT_GRAY;
  const std::string partial = path + "." + std::to_string(getpid()) + ".partial";
  File file(std::fopen(partial.c_str(), "wb"));
  if (!file) {
    refuse_path("cannot write to " + path, errno);
  }
  errno = 0;
  const bool encoded = png_image_write_to_stdio(&image, file.get(), 0, grey.data(), 0, nullptr) != 0;
  const bool closed = std::fclose(file.release()) == 0;
  if (!encoded || !closed || std::rename(partial.c_str(), path.c_str()) != 0) {
    const int error_number = errno;
    std::remove(partial.c_str());
    refuse_path("cannot write to " + path, error_number);
  }
}

}  // namespace sparsesam::command
