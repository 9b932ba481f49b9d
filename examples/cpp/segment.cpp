// segment DIR photo.ppm x0 y0 x1 y1 mask.pgm: the object in a box, with the engines of a build folder.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sparsesam/engine.hpp>

int main(int argc, char** argv) try {
  if (argc != 8) throw sparsesam::Error(SPARSESAM_INVALID_INPUT, "give DIR photo.ppm x0 y0 x1 y1 mask.pgm.");
  std::ifstream photo(argv[2], std::ios::binary);
  std::string magic;
  int width = 0, height = 0, white = 0;
  photo >> magic >> width >> height >> white;
  photo.get();
  const std::vector<char> rgb(std::istreambuf_iterator<char>(photo), {});
  if (magic != "P6" || white != 255 || width < 1 || height < 1 || rgb.size() / 3 / width < std::size_t(height))
    throw sparsesam::Error(SPARSESAM_INVALID_INPUT, "the photo is no 8-bit PPM (P6).");
  auto context = sparsesam::Engine::load(argv[1]).create_context();  // keeps the engine
  context.encode_image({reinterpret_cast<const uint8_t*>(rgb.data()), height, width, 0});
  const auto edge = [&](int i) { return std::strtof(argv[i], nullptr); };
  auto answer = context.predict(sparsesam::Prompts::box(edge(3), edge(4), edge(5), edge(6)));
  std::ofstream(argv[7], std::ios::binary)
      << "P5 " << width << " " << height << " 1\n"
      << std::string(answer.masks.begin(), answer.masks.end());
} catch (const sparsesam::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return error.status();
}
