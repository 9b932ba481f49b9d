#include "png_file.hpp"

#include <png.h>

#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <new>

namespace sparsesam::command {
namespace {

constexpr std::size_t signature_size = 8;
constexpr std::size_t max_chunk_bytes = std::size_t{8} << 20U;  // but for pixels
constexpr std::uint64_t max_deflate_ratio = 1032;               // zlib's technical details: no stream expands further

png_const_bytep bytes_of(std::string_view content) { return reinterpret_cast<png_const_bytep>(content.data()); }

// Refuse chunks that are longer than the file, and metadata longer than any is: libpng 1.6.39 allocates what an eXIf
// chunk claims to hold, whatever limits are set.
void require_whole_chunks(std::string_view content, const std::string& name) {
  constexpr std::size_t overhead = 12;  // length, name, checksum
  std::string_view rest = content.substr(signature_size);
  for (std::string_view kind; kind != "IEND";) {
    const std::size_t length = rest.size() < overhead ? 0 : png_get_uint_32(bytes_of(rest));
    if (rest.size() < overhead + length) {
      refuse_damaged(name, "the file ends too early");
    }
    kind = rest.substr(4, 4);
    if (length > max_chunk_bytes && kind != "IDAT") {
      refuse_image(name, "holds " + std::to_string(length) + " bytes of metadata in one piece; save it again without.");
    }
    rest.remove_prefix(overhead + length);
  }
}

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
    constexpr png_uint_32 max_side = 1U << 24U;
    constexpr png_uint_32 max_chunks = 128;
    png_set_user_limits(png_, max_side, max_side);
    png_set_chunk_malloc_max(png_, max_chunk_bytes);
    png_set_chunk_cache_max(png_, max_chunks);
    png_set_read_fn(png_, this, &Reader::on_read);
    png_read_info(png_, info_);
    return true;
  }

  // Ask for what Pillow gives, and read to the file's end.
  bool read_pixels(std::vector<std::uint8_t>& pixels) {
    if (setjmp(png_jmpbuf(png_)) != 0) {  // NOLINT(modernize-avoid-setjmp-longjmp)
      return false;
    }
    if (png_get_color_type(png_, info_) == PNG_COLOR_TYPE_GRAY) {
      png_set_scale_16(png_);  // (v + 128) / 257
    } else {
      png_set_strip_16(png_);
    }
    png_set_expand(png_);
    png_set_gray_to_rgb(png_);
    png_set_strip_alpha(png_);
    const int passes = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    const std::size_t row_bytes = png_get_rowbytes(png_, info_);
    pixels.resize(row_bytes * height());
    for (int pass = 0; pass < passes; ++pass) {
      for (png_uint_32 y = 0; y < height(); ++y) {
        png_read_row(png_, pixels.data() + y * row_bytes, nullptr);
      }
    }
    png_read_end(png_, info_);
    return true;
  }

  [[nodiscard]] png_uint_32 width() const { return png_get_image_width(png_, info_); }
  [[nodiscard]] png_uint_32 height() const { return png_get_image_height(png_, info_); }
  [[nodiscard]] const char* message() const { return message_.data(); }

  // The EXIF block, empty without one; it may stand behind the pixels.
  [[nodiscard]] std::string exif() const {
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

}  // namespace

bool is_png(std::string_view content) {
  return content.size() >= signature_size && png_sig_cmp(bytes_of(content), 0, signature_size) == 0;
}

StoredImage decode_png(std::string_view content, const std::string& name, std::uint64_t max_pixels) {
  require_whole_chunks(content, name);
  Reader reader(content);
  if (!reader.read_header()) {
    refuse_damaged(name, reader.message());
  }
  require_decodable_size(name, reader.width(), reader.height(), max_pixels);
  const std::uint64_t least_bits = std::uint64_t{reader.width()} * reader.height();  // one bit a pixel, and no less
  if (least_bits / 8 > content.size() * max_deflate_ratio) {
    refuse_damaged(name, "the file is too short for its size in pixels");
  }
  StoredImage stored;
  stored.image.height = static_cast<std::int32_t>(reader.height());
  stored.image.width = static_cast<std::int32_t>(reader.width());
  if (!reader.read_pixels(stored.image.pixels)) {
    refuse_damaged(name, reader.message());
  }
  stored.exif = reader.exif();
  return stored;
}

}  // namespace sparsesam::command
