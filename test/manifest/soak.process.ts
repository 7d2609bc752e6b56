// The long form of the fuzz tests: 100 000 mutated manifests and names, and image headers in proportion.
import { spawn } from 'node:child_process'

const child = spawn(
  'node_modules/.bin/vitest',
  ['run', 'test/manifest/fuzz.test.ts', 'test/images/fuzz.test.ts', '--testTimeout=1200000'],
  {
    stdio: 'inherit',
    env: { ...process.env, FUZZ_RUNS: '100000' },
  },
)
process.exitCode = await new Promise<number>((resolve) => child.on('close', (code) => resolve(code ?? 1)))
