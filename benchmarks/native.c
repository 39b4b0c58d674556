/* A minimal ONNX Runtime loop in C: what native code measures around one Run.
 *
 * ort_loop MODEL ROWS WIDTH SECONDS: float32 input "x" [ROWS, WIDTH], output "y". Prints the median
 * of the iterations in nanoseconds, how many there were, and the sum of the last output. The C
 * interface is a table of functions whose places never change (its header promises that), so no
 * header is needed: only the places of the functions that are used here.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { const void *const *(*get_api)(uint32_t version); const char *(*version)(void); } Base;
extern const Base *OrtGetApiBase(void);

enum {
  ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_OPTIONS = 10,
  OPTIMIZATION = 23, INTRA_THREADS = 24, INTER_THREADS = 25, TENSOR_WITH_DATA = 49,
  TENSOR_DATA = 51, CPU_MEMORY = 69,
};

static const void *const *api;
static void check(void *status) {
  if (!status) return;
  const char *(*message)(void *) = (const char *(*)(void *))api[ERROR_MESSAGE];
  fprintf(stderr, "%s\n", message(status));
  exit(1);
}
#define CALL(place, ...) check(((void *(*)())api[place])(__VA_ARGS__))

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  if (argc != 5) return fprintf(stderr, "usage: ort_loop MODEL ROWS WIDTH SECONDS\n"), 2;
  int64_t shape[2] = {atoll(argv[2]), atoll(argv[3])};
  double seconds = atof(argv[4]);
  size_t count = (size_t)(shape[0] * shape[1]);
  float *x = malloc(count * sizeof *x);
  for (size_t i = 0; i < count; i++) x[i] = (float)((i * 2654435761u) % 1000) / 500.0f - 1.0f;

  api = OrtGetApiBase()->get_api(12);
  void *env, *options, *session, *memory, *input, *output = NULL;
  CALL(CREATE_ENV, 3, "loop", &env);
  CALL(CREATE_OPTIONS, &options);
  CALL(OPTIMIZATION, options, 99);
  CALL(INTRA_THREADS, options, 1);
  CALL(INTER_THREADS, options, 1);
  CALL(CREATE_SESSION, env, argv[1], options, &session);
  CALL(CPU_MEMORY, 0, 0, &memory);
  CALL(TENSOR_WITH_DATA, memory, x, count * sizeof *x, shape, (size_t)2, 1, &input);
  const char *in[] = {"x"}, *out[] = {"y"};

  size_t room = 1 << 22, n = 0;
  int64_t *took = malloc(room * sizeof *took);
  int64_t warm = now() + (int64_t)(0.3e9), end = warm + (int64_t)(seconds * 1e9);
  for (int64_t stop = 0; stop < end && n < room;) {
    int64_t start = now();
    CALL(RUN, session, NULL, in, &input, (size_t)1, out, (size_t)1, &output);
    stop = now();
    if (start >= warm) took[n++] = stop - start;
  }
  float *y;
  CALL(TENSOR_DATA, output, &y);
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += y[i];
  qsort(took, n, sizeof *took, by_size);
  printf("%lld %zu %.6g\n", (long long)took[n / 2], n, sum);
  return 0;
}
