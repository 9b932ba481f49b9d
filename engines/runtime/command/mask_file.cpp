#include "mask_file.hpp"

#include <png.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include "sparsesam/engine.hpp"

namespace sparsesam::command {
namespace {

[[noreturn]] void refuse_path(const std::string& path, int error_number) {
  const bool disk_full = error_number == ENOSPC || error_number == EDQUOT;
  throw Error(disk_full ? SPARSESAM_ENVIRONMENT : SPARSESAM_INVALID_INPUT,
              ("cannot write to " + path + ": " + std::generic_category().message(error_number) +
               (disk_full ? "; free space there or choose another place." : "; check the path and its permissions."))
                  .c_str());
}

}  // namespace

void write_mask(const std::string& path, const std::vector<std::uint8_t>& mask, std::int32_t height,
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
  std::FILE* const file = std::fopen(partial.c_str(), "wb");
  if (file == nullptr) {
    refuse_path(path, errno);
  }
  errno = 0;
  const bool encoded = png_image_write_to_stdio(&image, file, 0, grey.data(), 0, nullptr) != 0;
  const bool closed = std::fclose(file) == 0;
  if (!encoded || !closed || std::rename(partial.c_str(), path.c_str()) != 0) {
    const int error_number = errno;
    std::remove(partial.c_str());
    refuse_path(path, error_number);
  }
}

}  // namespace sparsesam::command
