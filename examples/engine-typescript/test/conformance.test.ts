import { engineConformance } from '@kvx/conformance'

engineConformance('files', { backend: new URL('../dist/index.js', import.meta.url) })
