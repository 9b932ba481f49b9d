#include "image_file.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>

#include "exif.hpp"
#include "jpeg_file.hpp"
#include "png_file.hpp"

namespace sparsesam::command {
namespace {

constexpr std::uint64_t pillow_max_pixels = 178956970;  // 2 * PIL.Image.MAX_IMAGE_PIXELS
constexpr std::size_t max_file_bytes = std::size_t{1} << 30U;

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

[[noreturn]] void refuse_path(const std::string& path, int error_number) {
  throw Error(SPARSESAM_INVALID_INPUT,
              ("cannot read image " + path + ": " + std::generic_category().message(error_number) +
               "; check the path and its permissions.")
                  .c_str());
}

StoredImage decode_stored(std::string_view content, const std::string& name, std::uint64_t max_pixels) {
  if (is_png(content)) {
    return decode_png(content, name, max_pixels);
  }
  if (is_jpeg(content)) {
    return decode_jpeg(content, name, max_pixels);
  }
  refuse_image(name, "is neither PNG nor JPEG; convert it to one of them.");
}

}  // namespace

RgbImage decode_image(std::string_view content, const std::string& name, std::uint64_t max_pixels) {
  StoredImage stored = decode_stored(content, name, max_pixels);
  return upright(std::move(stored.image), orientation(stored.exif));
}

RgbImage read_image(const std::string& path) {
  const std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "rb"));
  if (!file) {
    refuse_path(path, errno);
  }
  std::string content;
  std::array<char, std::size_t{1} << 16U> piece{};
  while (std::feof(file.get()) == 0 && std::ferror(file.get()) == 0) {
    const std::size_t size = std::fread(piece.data(), 1, piece.size(), file.get());
    if (content.size() + size > max_file_bytes) {
      refuse_image(path, "is larger than 1 GiB; scale it down first.");
    }
    content.append(piece.data(), size);
  }
  if (std::ferror(file.get()) != 0) {
    refuse_path(path, errno);
  }
  return decode_image(content, path, pillow_max_pixels);
}

}  // namespace sparsesam::command
