import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'
import { LongestFirst } from './test/support/sequencer.ts'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    // Most long tests wait for agents and qemu-img, so one more than the cores keeps both busy.
    maxWorkers: Math.max(2, availableParallelism()) + 1,
    sequence: { sequencer: LongestFirst },
    globalSetup: ['test/support/global-setup.ts'],
    // Bounds for what hangs, not for what is slow: the machine may be ten times as busy as it was when a test was written.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    maxConcurrency: 3,
    teardownTimeout: 30_000,
    env: { NO_COLOR: '1' },
  },
})
