# Shared by every addon of kvx: include it in binding.gyp.
{
  'target_defaults': {
    'include_dirs': [
      '<!(node -p "require(\'node:path\').dirname(require.resolve(\'@kvx/native/package.json\'))")/include',
      '<!(node -p "require(\'node-addon-api\').include_dir")',
    ],
    'cflags!': ['-fno-exceptions', '-O3'],
    'cflags_cc!': ['-fno-exceptions', '-std=gnu++17', '-O3'],
    'cflags_cc': ['-std=gnu++20', '-O2', '-fvisibility=hidden', '-Wall', '-Wextra', '-pthread'],
    # nodelete: Node unloads an addon when its worker ends; code of a thread that is just returning must stay.
    'ldflags': ['-pthread', '-Wl,-z,nodelete'],
    'libraries': ['-ldl'],
  },
}
