{
  'includes': ['node_modules/@kvx/native/kvx.gypi'],
  'targets': [{'target_name': 'outside', 'sources': ['engine.cc']}],
}
