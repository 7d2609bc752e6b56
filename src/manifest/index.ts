/** Manifests: what a client asks for, read, checked and normalised (DESIGN section 3). */
export type { Diagnostic } from '../text/diagnostic.ts'
export { answerNameOf, bootDiskIndex } from './answers.ts'
export type { CommandManifest } from './kinds/command.ts'
export type { ConvertManifest } from './kinds/convert.ts'
export { kinds, type Manifest } from './kinds/index.ts'
export { maxManifestBytes, type ParseOptions, type ParseOutcome, parseManifest } from './parse.ts'
export { safeName } from './safe-name.ts'
