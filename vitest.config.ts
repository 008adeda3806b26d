import { existsSync, readdirSync } from 'node:fs'
import { defineConfig } from 'vitest/config'

/** Their tests load the model or start many processes: two files at once would starve each other. */
const oneFileAtATime = new Set(['llama', 'server', 'cli'])

const packages = readdirSync('packages').filter((name) =>
  existsSync(`packages/${name}/package.json`),
)

export default defineConfig({
  test: {
    maxWorkers: 2,
    projects: packages.map((name) => {
      const slow = oneFileAtATime.has(name)
      const setup = 'test/global-setup.ts'
      return {
        extends: true,
        test: {
          name,
          root: `packages/${name}`,
          include: ['test/**/*.test.ts'],
          globalSetup: existsSync(`packages/${name}/${setup}`) ? [setup] : [],
          // A process per file: addons and their threads end with it.
          pool: 'forks',
          // The quick packages first, side by side; then the others, file after file.
          sequence: { groupOrder: slow ? 1 : 0 },
          ...(slow ? { maxWorkers: 1 } : {}),
          // Only against hanging: a busy machine may take ten times as long as a quiet one.
          testTimeout: slow ? 180_000 : 60_000,
          hookTimeout: slow ? 180_000 : 60_000,
          // Built packages are loaded by Node itself, as a user's program would load them.
          server: { deps: { external: [/\/packages\/[^/]+\/dist\//] } },
        },
      }
    }),
  },
})
