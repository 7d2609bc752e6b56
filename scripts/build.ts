/**
 * Builds what an installed package runs: Node strips types in a checkout, but refuses to below node_modules.
 * dist/cli/main.js and dist/index.js are bundles of our own code (dependencies stay outside, each command in a chunk of its
 * own, loaded when it is used); dist/types/ holds the declarations of the library.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { build, type Plugin } from 'esbuild'

const root = join(import.meta.dirname, '..')
const dist = join(root, 'dist')

rmSync(dist, { recursive: true, force: true })

const options = {
  absWorkingDir: root,
  outdir: dist,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node26',
  packages: 'external',
  logLevel: 'warning',
} as const

/**
 * The program's entry is one file together with the short way of `vmspool run`, and that of `vmspool list` is another one, for each file
 * costs half a millisecond; whatever else these import when they need it is a bundle of its own below dist/later/.
 */
const later: Record<string, string> = {}
const ownFiles = ['./list-now.ts']
const oneFile = (within: readonly string[]): Plugin => ({
  name: 'one file',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^\.{1,2}\// }, ({ kind, path, resolveDir }) => {
      if (kind !== 'dynamic-import' || within.includes(path)) return undefined
      if (ownFiles.includes(path)) return { path: path.replace(/\.ts$/, '.js'), external: true }
      const source = relative(join(root, 'src'), join(resolveDir, path)).replace(/\.ts$/, '')
      later[`later/${source}`] = `src/${source}.ts`
      return { path: `../later/${source}.js`, external: true }
    })
    // An import of node:fs makes one of everything in it, node:fs/promises too, which is 2 ms. Here only what is used is looked at.
    onResolve({ filter: /^node:/ }, ({ path }) => ({ path, namespace: 'builtin' }))
    onLoad({ filter: /.*/, namespace: 'builtin' }, ({ path }) => {
      const names = Object.keys(process.getBuiltinModule(path) ?? {}).filter(
        (n) => /^[A-Za-z_$][\w$]*$/.test(n) && n !== 'default',
      )
      const lines = names.map((n) => `export const ${n} = /* @__PURE__ */ (() => builtin.${n})()`)
      return { contents: `const builtin = process.getBuiltinModule('${path}')\n${lines.join('\n')}` }
    })
  },
})
await build({ ...options, entryPoints: { 'cli/main': 'src/cli/main.ts' }, plugins: [oneFile(['./run-now.ts'])] })
const ofLists = ['../client/places.ts', '../client/status.ts', './history.ts', '../client/history.ts', './ghost.ts']
await build({ ...options, entryPoints: { 'cli/list-now': 'src/cli/list-now.ts' }, plugins: [oneFile(ofLists)] })

await build({
  ...options,
  entryPoints: {
    ...later,
    index: 'src/index.ts',
    // programs of threads: found by name beside the bundles
    'workers/grain-worker': 'src/convert/fast/grain-worker.ts',
    'workers/hash-worker': 'src/convert/hash-worker.ts',
  },
  splitting: true,
  chunkNames: 'chunks/[name]-[hash]',
})

copyFileSync(join(root, 'src/process/shim.pl'), join(dist, 'shim.pl')) // beside the bundles, which look for it there
copyFileSync(join(root, 'src/cli/run-now.pl'), join(dist, 'cli/run-now.pl'))

// An installed program needs none.
if (!process.argv.includes('--no-types')) declarations()

function declarations(): void {
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
}
