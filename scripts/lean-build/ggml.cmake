# Read after project(ggml): its sources define the same static names in several files, so they stay apart.
set(CMAKE_UNITY_BUILD OFF)
