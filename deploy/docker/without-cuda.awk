# From a requirements file, drops torch's CUDA build and the libraries that only it needs, each with its hashes.
BEGIN { kept = 1 }
/^[^ #]/ { kept = $0 !~ /^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/ }
kept
