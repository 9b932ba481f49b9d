// image_probe IN OUT.raw: decode, and write height and width as int32 and then the pixels.
// image_probe HEIGHT WIDTH IN.raw OUT.png: write a mask of zeros and ones.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "image_file.hpp"
#include "mask_file.hpp"
#include "sparsesam/engine.hpp"

int main(int argc, char** argv) {
  try {
    if (argc == 3) {
      const auto image = sparsesam::command::read_image(argv[1]);
      std::ofstream out(argv[2], std::ios::binary);
      out.write(reinterpret_cast<const char*>(&image.height), sizeof image.height);
      out.write(reinterpret_cast<const char*>(&image.width), sizeof image.width);
      out.write(reinterpret_cast<const char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()));
      return 0;
    }
    std::ifstream in(argv[3], std::ios::binary);
    const std::vector<std::uint8_t> mask{std::istreambuf_iterator<char>(in), {}};
    sparsesam::command::write_mask(argv[4], mask, std::atoi(argv[1]), std::atoi(argv[2]));
    return 0;
  } catch (const sparsesam::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return error.status();
  }
}
