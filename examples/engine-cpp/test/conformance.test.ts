import { engineConformance } from '@kvx/conformance'

engineConformance('files-cpp', { backend: new URL('../index.js', import.meta.url) })
