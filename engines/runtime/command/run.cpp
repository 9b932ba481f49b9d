// sparsesam-run: one image, one prompt, one mask; uses the public interface alone.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "image_file.hpp"
#include "mask_file.hpp"
#include "sparsesam/engine.hpp"

namespace {

using nlohmann::ordered_json;
using sparsesam::command::Arguments;

// Runs stages one after another, with a line on stderr and a record of each.
class Stages {
 public:
  template <typename Body>
  auto operator()(const char* name, const Body& body) {
    std::fprintf(stderr, "%-8s", name);
    std::fflush(stderr);
    records_.emplace_back(name, 0.0);
    const Timer timer(records_.back().second);
    return body();
  }

  [[nodiscard]] ordered_json seconds() const {
    ordered_json document;
    for (const auto& [name, seconds] : records_) {
      document[name] = seconds;
    }
    return document;
  }

 private:
  // Ends the stage's line, also when the stage fails.
  class Timer {
   public:
    explicit Timer(double& seconds) : seconds_(seconds) {}
    ~Timer() {
      seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
      std::fprintf(stderr, " %.3f s\n", seconds_);
    }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;
    Timer(Timer&&) = delete;
    Timer& operator=(Timer&&) = delete;

   private:
    double& seconds_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  };

  std::vector<std::pair<const char*, double>> records_;
};

void run(const Arguments& arguments) {
  Stages stage;
  const auto image = stage("read", [&] { return sparsesam::command::read_image(arguments.image); });
  const auto engine = stage("load", [&] { return sparsesam::Engine::load(arguments.folder, arguments.device); });
  auto context = engine.create_context();
  stage("encode", [&] { context.encode_image({image.pixels.data(), image.height, image.width, 0}); });
  const auto masks = stage("predict", [&] { return context.predict(arguments.prompts); });
  stage("write", [&] { sparsesam::command::write_mask(arguments.output, masks.masks, masks.height, masks.width); });
  const auto pixels = std::count(masks.masks.begin(), masks.masks.end(), 1);
  if (!arguments.json) {
    std::printf("%s: %td pixels, predicted IoU %.3f\n", arguments.output.c_str(), pixels,
                static_cast<double>(masks.iou.front()));
    return;
  }
  const sparsesam_info info = engine.info();
  const ordered_json document{{"mask", arguments.output},
                              {"height", masks.height},
                              {"width", masks.width},
                              {"pixels", pixels},
                              {"mask_index", masks.mask_indices.front()},
                              {"predicted_iou", masks.iou.front()},
                              {"family", info.family},
                              {"precision", info.precision},
                              {"seconds", stage.seconds()}};
  std::puts(document.dump(2, ' ', false, ordered_json::error_handler_t::replace).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Arguments arguments = sparsesam::command::parse_arguments(argc, argv);
    if (arguments.help) {
      std::fputs(sparsesam::command::usage, stdout);
    } else if (arguments.version) {
      std::printf("sparsesam-run %s\n", sparsesam_version());
    } else {
      run(arguments);
    }
    return SPARSESAM_OK;
  } catch (const sparsesam::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return error.status();
  } catch (const std::bad_alloc&) {
    std::fputs("error: memory is exhausted; give a smaller image.\n", stderr);
    return SPARSESAM_ENVIRONMENT;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return SPARSESAM_CHECK_FAILED;
  }
}
