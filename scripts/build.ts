/**
 * Builds what an installed package runs: Node strips types in a checkout, but refuses to below node_modules.
 * dist/cli/main.js and dist/index.js are bundles of our own code (dependencies stay outside, each command in a chunk of its
 * own, loaded when it is used); dist/types/ holds the declarations of the library.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'

const root = join(import.meta.dirname, '..')
const dist = join(root, 'dist')

rmSync(dist, { recursive: true, force: true })

await build({
  absWorkingDir: root,
  entryPoints: {
    'cli/main': 'src/cli/main.ts',
    index: 'src/index.ts',
    // programs of threads: found by name beside the bundles
    'workers/grain-worker': 'src/convert/fast/grain-worker.ts',
    'workers/hash-worker': 'src/convert/hash-worker.ts',
  },
  outdir: dist,
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node26',
  packages: 'external',
  chunkNames: 'chunks/[name]-[hash]',
  logLevel: 'warning',
})

copyFileSync(join(root, 'src/process/shim.pl'), join(dist, 'shim.pl')) // beside the bundles, which look for it there

const config = join(dist, 'tsconfig.json')
writeFileSync(
  config,
  JSON.stringify({
    extends: '../tsconfig.json',
    compilerOptions: {
      noEmit: false,
      declaration: true,
      emitDeclarationOnly: true,
      outDir: 'types',
      rootDir: '../src',
    },
    files: ['../src/index.ts'],
    include: [],
  }),
)
try {
  execFileSync(join(root, 'node_modules/.bin/tsc'), ['-p', config], { stdio: 'inherit' })
} finally {
  rmSync(config)
}
