import { MatvlmError } from '../../engine/errors.ts';

/** A configuration that is malformed or contradicts the weights; names the field. */
export class ConfigError extends MatvlmError {}

/** A tokenizer file that is malformed or of an unknown type. */
export class TokenizerError extends MatvlmError {}

/** An image that cannot be decoded or is out of bounds. */
export class ImageError extends MatvlmError {}

/** A data set that is missing, incomplete or malformed. */
export class DataError extends MatvlmError {}

/** A non-finite loss, gradient or weight; names step, tensor and op. */
export class NumericError extends MatvlmError {}
