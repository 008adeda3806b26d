{
  'includes': ['kvx.gypi'],
  'targets': [
    {
      'target_name': 'kvx_native',
      'sources': ['native/addon.cc', 'native/adopt_gpu.cc', 'native/digest.cc', 'native/gpu.cc', 'native/memory.cc', 'native/plan_tool.cc', 'native/staging.cc', 'native/tokens.cc'],
    },
  ],
}
