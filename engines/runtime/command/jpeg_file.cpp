#include "jpeg_file.hpp"

#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <new>

// These need <cstdio>.
#include <jerror.h>
#include <jpeglib.h>

namespace sparsesam::command {
namespace {

constexpr std::string_view exif_prefix("Exif\0\0", 6);

// a * b / 255, rounded, as Pillow does it.
unsigned multiply(unsigned a, unsigned b) {
  const unsigned product = a * b + 128;
  return ((product >> 8U) + product) >> 8U;
}

// Pixels of inverted CMYK to RGB, as Pillow converts them.
void cmyk_to_rgb(const std::vector<JSAMPLE>& cmyk, std::uint8_t* rgb) {
  for (std::size_t i = 0; i + 3 < cmyk.size(); i += 4) {
    const unsigned white = cmyk[i + 3];
    for (std::size_t channel = 0; channel < 3; ++channel) {
      *rgb++ = static_cast<std::uint8_t>(white - multiply(255U - cmyk[i + channel], white));
    }
  }
}

// A libjpeg decompressor over bytes in memory. libjpeg leaves its functions by longjmp here, so those that call it hold
// no object with a destructor, and tell failure by returning false.
class Reader {
 public:
  explicit Reader(std::string_view content) : content_(content) {
    jpeg_.err = jpeg_std_error(&errors_);
    jpeg_.client_data = this;
    errors_.error_exit = &Reader::on_error;
    errors_.emit_message = &Reader::on_message;
  }
  ~Reader() { jpeg_destroy_decompress(&jpeg_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  Reader(Reader&&) = delete;
  Reader& operator=(Reader&&) = delete;

  // Everything before the pixels.
  bool read_header() {
    if (setjmp(failed_) != 0) {  // NOLINT(modernize-avoid-setjmp-longjmp)
      return false;
    }
    constexpr unsigned longest_marker = 0xFFFF;
    jpeg_create_decompress(&jpeg_);
    jpeg_save_markers(&jpeg_, JPEG_APP0 + 1, longest_marker);
    jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(content_.data()), content_.size());
    jpeg_read_header(&jpeg_, TRUE);
    return true;
  }

  // Read to the file's end. Memory for pixels is asked for when a progressive file is known to be whole.
  bool read_pixels(std::vector<std::uint8_t>& pixels) {
    if (setjmp(failed_) != 0) {  // NOLINT(modernize-avoid-setjmp-longjmp)
      return false;
    }
    const bool is_cmyk = channels() == 4;
    jpeg_.out_color_space = is_cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&jpeg_);
    const std::size_t row_bytes = std::size_t{width()} * 3;
    pixels.resize(row_bytes * height());
    cmyk_.resize(is_cmyk ? std::size_t{width()} * 4 : 0);
    while (jpeg_.output_scanline < height()) {
      std::uint8_t* const row = pixels.data() + jpeg_.output_scanline * row_bytes;
      JSAMPROW out = is_cmyk ? cmyk_.data() : row;
      jpeg_read_scanlines(&jpeg_, &out, 1);
      cmyk_to_rgb(cmyk_, row);
    }
    jpeg_finish_decompress(&jpeg_);
    return true;
  }

  [[nodiscard]] JDIMENSION width() const { return jpeg_.image_width; }
  [[nodiscard]] JDIMENSION height() const { return jpeg_.image_height; }
  [[nodiscard]] int channels() const { return jpeg_.num_components; }

  // The EXIF block, of all the markers that a long one is spread over; valid from read_header on.
  [[nodiscard]] std::string exif() const {
    std::string exif;
    for (const jpeg_marker_struct* marker = jpeg_.marker_list; marker != nullptr; marker = marker->next) {
      const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
      if (data.substr(0, exif_prefix.size()) == exif_prefix) {
        exif += data.substr(exif_prefix.size());
      }
    }
    return exif;
  }

  // What libjpeg stopped at.
  [[noreturn]] void refuse(const std::string& name) {
    if (errors_.msg_code == JERR_OUT_OF_MEMORY) {
      throw std::bad_alloc();
    }
    std::array<char, JMSG_LENGTH_MAX> message{};
    errors_.format_message(reinterpret_cast<j_common_ptr>(&jpeg_), message.data());
    refuse_damaged(name, message.data());
  }

 private:
  static void on_error(j_common_ptr jpeg) {
    std::longjmp(static_cast<Reader*>(jpeg->client_data)->failed_, 1);  // NOLINT(modernize-avoid-setjmp-longjmp)
  }

  // libjpeg warns and goes on with made-up data where some are missing. The warnings below are not of that kind.
  static void on_message(j_common_ptr jpeg, int level) {
    if (level >= 0) {
      return;  // a trace
    }
    switch (jpeg->err->msg_code) {
      case JWRN_ADOBE_XFORM:
      case JWRN_BOGUS_PROGRESSION:
      case JWRN_EXTRANEOUS_DATA:
      case JWRN_JFIF_MAJOR:
      case JWRN_NOT_SEQUENTIAL:
        break;
      default:
        on_error(jpeg);
    }
  }

  std::string_view content_;
  std::vector<JSAMPLE> cmyk_;  // one row
  jpeg_error_mgr errors_{};
  jpeg_decompress_struct jpeg_{};
  std::jmp_buf failed_{};
};

}  // namespace

bool is_jpeg(std::string_view content) { return content.substr(0, 3) == "\xff\xd8\xff"; }

StoredImage decode_jpeg(std::string_view content, const std::string& name, std::uint64_t max_pixels) {
  Reader reader(content);
  if (!reader.read_header()) {
    reader.refuse(name);
  }
  require_decodable_size(name, reader.width(), reader.height(), max_pixels);
  if (const int channels = reader.channels(); channels != 1 && channels != 3 && channels != 4) {
    refuse_image(name, "has " + std::to_string(channels) + " colour channels; save it as grey, RGB or CMYK.");
  }
  StoredImage stored;
  stored.exif = reader.exif();
  stored.image.height = static_cast<std::int32_t>(reader.height());
  stored.image.width = static_cast<std::int32_t>(reader.width());
  if (!reader.read_pixels(stored.image.pixels)) {
    reader.refuse(name);
  }
  return stored;
}

}  // namespace sparsesam::command
