#include "arguments.hpp"

#include <getopt.h>

#include <array>
#include <charconv>
#include <cmath>

namespace sparsesam::command {

const char* const usage =
    "usage: sparsesam-run DIR IMAGE -o MASK.png [--box x0,y0,x1,y1] [--point x,y]... [--negative x,y]...\n"
    "\n"
    "Segments one object with the engines of DIR, a folder made by `sparsesam-export build --builder tensorrt`.\n"
    "IMAGE is a JPEG or PNG file; its EXIF orientation is applied.\n"
    "\n"
    "  --box x0,y0,x1,y1   box around the object, pixels of the image\n"
    "  --point x,y         a point inside the object; repeatable\n"
    "  --negative x,y      a point outside of it; repeatable\n"
    "  -o, --output FILE   8-bit grey PNG, 255 inside the object\n"
    "  --device N          CUDA device, 0 unless given\n"
    "  --json              one JSON document on stdout: mask, predicted IoU, seconds\n"
    "  --version, -h, --help\n"
    "\n"
    "Exit codes: 0 ok, 1 a check failed, 2 unusable input, 3 something is missing on this machine.\n";

namespace {

[[noreturn]] void refuse(const std::string& sentence) { throw Error(SPARSESAM_INVALID_INPUT, sentence.c_str()); }

void add_point(Prompts& prompts, const std::string& option, std::int32_t label) {
  const std::vector<float> point = parse_numbers(optarg, 2, option);
  prompts.point_coords.insert(prompts.point_coords.end(), point.begin(), point.end());
  prompts.point_labels.push_back(label);
}

void take_option(Arguments& arguments, int found, const char* word) {
  switch (found) {
    case 'b':
      if (!arguments.prompts.boxes.empty()) {
        refuse("--box is given twice; give one box, and points to correct it.");
      }
      arguments.prompts.boxes = parse_numbers(optarg, 4, "--box");
      break;
    case 'p':
      add_point(arguments.prompts, "--point", 1);
      break;
    case 'n':
      add_point(arguments.prompts, "--negative", 0);
      break;
    case 'o':
      arguments.output = optarg;
      break;
    case 'd': {
      const float device = parse_numbers(optarg, 1, "--device").front();
      constexpr float most = 1024;
      if (device < 0 || device > most || device != std::floor(device)) {
        refuse(std::string("--device ") + optarg + " is no CUDA device; give a number such as 0.");
      }
      arguments.device = static_cast<std::int32_t>(device);
      break;
    }
    case 'j':
      arguments.json = true;
      break;
    case 'h':
      arguments.help = true;
      break;
    case 'v':
      arguments.version = true;
      break;
    default:
      refuse(std::string("option ") + word + " is unknown or lacks its value; see `sparsesam-run --help`.");
  }
}

}  // namespace

std::vector<float> parse_numbers(std::string_view text, std::size_t count, const std::string& option) {
  std::vector<float> numbers;
  const char* position = text.data();
  const char* const end = text.data() + text.size();
  while (position != end && numbers.size() < count) {
    float number = 0;
    const auto [after, error] = std::from_chars(position, end, number);
    const bool is_last = numbers.size() + 1 == count;
    if (error != std::errc() || !std::isfinite(number) || (after == end) != is_last || (!is_last && *after != ',')) {
      break;
    }
    numbers.push_back(number);
    position = is_last ? after : after + 1;
  }
  if (numbers.size() != count || position != end) {
    refuse(option + " " + std::string(text) + " is not " + std::to_string(count) +
           (count == 1 ? " number." : " numbers; separate them by commas without spaces."));
  }
  return numbers;
}

Arguments parse_arguments(int argc, char** argv) {
  constexpr std::array<option, 9> options{{{"box", required_argument, nullptr, 'b'},
                                           {"point", required_argument, nullptr, 'p'},
                                           {"negative", required_argument, nullptr, 'n'},
                                           {"output", required_argument, nullptr, 'o'},
                                           {"device", required_argument, nullptr, 'd'},
                                           {"json", no_argument, nullptr, 'j'},
                                           {"help", no_argument, nullptr, 'h'},
                                           {"version", no_argument, nullptr, 'v'},
                                           {nullptr, 0, nullptr, 0}}};
  Arguments arguments;
  opterr = 0;  // the sentence is ours
  // NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread
  for (int found = 0; (found = getopt_long(argc, argv, "o:h", options.data(), nullptr)) != -1;) {
    take_option(arguments, found, argv[optind - 1]);
  }
  if (arguments.help || arguments.version) {
    return arguments;
  }
  if (argc - optind != 2) {
    refuse("sparsesam-run takes a folder and an image, but " + std::to_string(argc - optind) +
           " arguments were given; see `sparsesam-run --help`.");
  }
  arguments.folder = argv[optind];
  arguments.image = argv[optind + 1];
  if (arguments.output.empty()) {
    refuse("no output was named; give -o MASK.png.");
  }
  if (arguments.prompts.boxes.empty() && arguments.prompts.point_labels.empty()) {
    refuse("no prompt was given; give --box x0,y0,x1,y1 or --point x,y.");
  }
  arguments.prompts.num_prompts = 1;
  return arguments;
}

}  // namespace sparsesam::command
